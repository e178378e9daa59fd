"""Pushing files: resumed where it broke off, verified on the machine, whole or not there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pretend import Machine, wait_until

from qaicl.errors import BundleError, HostUnreachableError, StepFailedError
from qaicl.provision import ssh
from qaicl.provision.operations import upload as operation
from qaicl.provision.operations.base import BundleFile, Situation, Upload
from qaicl.provision.plan import parse_probes, probe_script
from qaicl.provision.session import read_facts
from qaicl.provision.upload import CHUNK, STAGING, push

DATA = random.Random(1).randbytes(3 * CHUNK + 17)


@pytest.fixture
def connection(machine: Machine) -> Iterator[ssh.Connection]:
    with ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as opened:
        yield opened


def _file(tmp_path: Path, name: str, data: bytes = DATA) -> BundleFile:
    path = tmp_path / "bundle" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return BundleFile(name, len(data), hashlib.sha256(data).hexdigest(), str(path))


def _args(*files: BundleFile, to: str = "/opt/data") -> operation.Args:
    return operation.Args(destination=to, files=list(files))


def _planned(connection: ssh.Connection, args: operation.Args) -> Upload | None:
    script, keys = probe_script(operation.probes(args))
    found = parse_probes(connection.run(script).text, keys)
    change = operation.plan(args, Situation(read_facts(connection), found))
    if change is None:
        return None
    (action,) = change.actions
    assert isinstance(action, Upload)
    return action


def _push(connection: ssh.Connection, args: operation.Args) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    action = _planned(connection, args)
    assert action is not None
    push(connection, action, lambda *what: told.append(what))
    return told


def _staged(machine: Machine, file: BundleFile) -> Path:
    path = machine.at(STAGING) / file.sha256
    path.parent.mkdir(exist_ok=True)
    return path


# --- what must not happen --------------------------------------------------------------------------------


def test_a_file_that_is_damaged_here_never_lies_in_its_place(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    good = _file(tmp_path, "good", b"good")
    bad = _file(tmp_path, "bad", b"as it was")
    machine.at("/opt/data").mkdir()
    machine.at("/opt/data/bad").write_bytes(b"the one before")
    Path(bad.source).write_bytes(b"as it is!")
    with pytest.raises(BundleError, match="bad arrived on a with a wrong checksum") as caught:
        _push(connection, _args(good, bad))
    assert "bundle --verify" in caught.value.fix
    assert machine.at("/opt/data/bad").read_bytes() == b"the one before"
    assert not machine.at("/opt/data/good").exists()
    assert not _staged(machine, bad).exists()
    Path(bad.source).write_bytes(b"as it was")
    _push(connection, _args(good, bad))
    assert machine.at("/opt/data/bad").read_bytes() == b"as it was"


def test_a_damaged_file_is_found_on_a_machine_of_any_language(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    german = '/usr/bin/sha256sum "$@" | sed s/FAILED/FEHLSCHLAG/'
    machine.fake("sha256sum", f'[ "$LC_ALL" != C ] || exec /usr/bin/sha256sum "$@"; {german}')
    bad = _file(tmp_path, "bad", b"as it was")
    Path(bad.source).write_bytes(b"as it is!")
    with pytest.raises(BundleError, match="bad arrived on a with a wrong checksum"):
        _push(connection, _args(bad))
    assert not machine.at("/opt/data/bad").exists()


def test_a_beginning_that_is_another_files_is_thrown_away(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    file = _file(tmp_path, "f")
    _staged(machine, file).write_bytes(b"x" * CHUNK)
    with pytest.raises(BundleError, match="wrong checksum"):
        _push(connection, _args(file))
    _push(connection, _args(file))
    assert machine.at("/opt/data/f").read_bytes() == DATA


def test_too_little_room_is_said_before_a_byte_is_sent(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    file = _file(tmp_path, "f")
    machine.inside(f"mkdir {STAGING}; mount -t tmpfs -o size=2m none {STAGING}")
    with pytest.raises(StepFailedError) as caught:
        _push(connection, _args(file))
    assert "4 MB are needed" in caught.value.why
    assert "free some space on a" in caught.value.fix
    assert machine.inside(f"ls {STAGING}") == ""


def test_a_disk_that_fills_on_the_way_is_named(machine: Machine, connection: ssh.Connection, tmp_path: Path) -> None:
    file = _file(tmp_path, "f")
    machine.inside(f"mkdir {STAGING}; mount -t tmpfs -o size=6m none {STAGING}")
    action = _planned(connection, _args(file))
    assert action is not None

    def fill(name: str, done: int, total: int) -> None:
        machine.inside(f"cat /dev/zero > {STAGING}/other 2>/dev/null || true")

    with pytest.raises(StepFailedError, match="did not take f"):
        push(connection, action, fill)
    machine.inside(f"rm {STAGING}/other")
    assert not machine.at("/opt/data/f").exists()
    _push(connection, _args(file))
    assert machine.at("/opt/data/f").read_bytes() == DATA


def test_a_full_disk_at_the_destination_leaves_what_was_there(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    file = _file(tmp_path, "f")
    machine.inside("mkdir /opt/data; mount -t tmpfs -o size=1m none /opt/data; echo before > /opt/data/f")
    with pytest.raises(StepFailedError, match="cannot place the files in /opt/data") as caught:
        _push(connection, _args(file))
    assert "No space left" in caught.value.why
    assert machine.inside("ls -A /opt/data; cat /opt/data/f") == "f\nbefore\n"
    machine.inside("mount -o remount,size=8m /opt/data")
    assert _push(connection, _args(file)) == []  # what was sent is still there
    assert machine.inside("sha256sum < /opt/data/f").split()[0] == file.sha256


def test_a_file_that_is_gone_here_is_named(connection: ssh.Connection, tmp_path: Path) -> None:
    file = _file(tmp_path, "f")
    Path(file.source).unlink()
    with pytest.raises(BundleError, match="is gone"):
        _push(connection, _args(file))


def test_a_destination_that_cannot_be_is_named(machine: Machine, connection: ssh.Connection, tmp_path: Path) -> None:
    machine.at("/opt/data").write_text("in the way")
    with pytest.raises(StepFailedError, match="cannot take the files for /opt/data"):
        _push(connection, _args(_file(tmp_path, "f")))


# --- what must happen ------------------------------------------------------------------------------------


def test_what_broke_off_goes_on_at_the_byte_where_it_stopped(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    file = _file(tmp_path, "f")
    action = _planned(connection, _args(file))
    assert action is not None

    def cut(name: str, done: int, total: int) -> None:
        if done >= 2 * CHUNK:
            # What was sent may still be on its way.
            wait_until(lambda: _staged(machine, file).exists() and _staged(machine, file).stat().st_size)
            machine.stop()

    with pytest.raises(HostUnreachableError, match="does not answer"):
        push(connection, action, cut)
    assert not machine.at("/opt/data/f").exists()
    kept = _staged(machine, file).stat().st_size
    assert 0 < kept < file.size
    assert _staged(machine, file).read_bytes() == DATA[:kept]
    machine.start()
    with ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as again:
        told = _push(again, _args(file))
        assert told[0] == ("f", min(kept + CHUNK, file.size), file.size)
        assert told[-1] == ("f", file.size, file.size)
        assert machine.at("/opt/data/f").read_bytes() == DATA
        assert _planned(again, _args(file)) is None


def test_files_arrive_below_folders_with_owner_mode_and_any_name(
    machine: Machine, connection: ssh.Connection, tmp_path: Path
) -> None:
    files = (
        _file(tmp_path, "plain", b"1"),
        _file(tmp_path, "sub dir/it's one", b"2"),
        _file(tmp_path, "empty", b""),
        _file(tmp_path, "sub dir/empty too", b""),
        _file(tmp_path, "the same as plain", b"1"),
    )
    args = operation.Args(destination="/opt/data", files=list(files), owner="plain", group="plain")
    _push(connection, args)
    for file in files:
        path = machine.at("/opt/data") / file.name
        assert path.read_bytes() == Path(file.source).read_bytes()
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (4242, 0o644)
    assert _planned(connection, args) is None
    assert list(machine.at(STAGING).iterdir()) == []


def test_only_what_differs_is_sent_again(machine: Machine, connection: ssh.Connection, tmp_path: Path) -> None:
    one, two = _file(tmp_path, "one", b"1"), _file(tmp_path, "two", b"2")
    _push(connection, _args(one, two))
    newer = _file(tmp_path, "two", b"newer")
    assert {name for name, _, _ in _push(connection, _args(one, newer))} == {"two"}
    machine.at("/opt/data/one").write_bytes(b"X")  # as long as it was, by hand
    assert {name for name, _, _ in _push(connection, _args(one, newer))} == {"one"}
    assert machine.at("/opt/data/one").read_bytes() == b"1"
    assert _planned(connection, _args(one, newer)) is None
