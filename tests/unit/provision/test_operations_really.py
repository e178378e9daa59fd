"""The operations that work on files, carried out by a real shell: planned, done, planned again, taken back."""

from __future__ import annotations

import getpass
import grp
import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qaicl.provision.facts import Facts
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.operations.base import Change, Command, Situation
from qaicl.provision.plan import parse_probes, probe_script

MINE = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}


def _sh(script: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """As a connection does it: the script goes over stdin where nothing else does."""
    command = ["sh", "-s"] if stdin is None else ["sh", "-c", script]
    return subprocess.run(command, input=script.encode() if stdin is None else stdin, capture_output=True)


def _plan(name: str, arguments: Mapping[str, Any]) -> Change | None:
    operation = OPERATIONS[name]
    args = msgspec.convert(arguments, operation.arguments)
    script, keys = probe_script(operation.probes(args))
    found = parse_probes(_sh(script).stdout.decode(), keys)
    return operation.plan(args, Situation(Facts(), found))


def _do(commands: Any, before: str = "") -> subprocess.CompletedProcess[bytes]:
    for command in commands:
        assert isinstance(command, Command)
        done = _sh(before + command.script, command.stdin)
        if done.returncode != 0:
            return done
    return subprocess.CompletedProcess([], 0)


def _change(name: str, arguments: Mapping[str, Any]) -> Change:
    change = _plan(name, arguments)
    assert change is not None
    return change


def _converges(name: str, arguments: Mapping[str, Any]) -> Change:
    """Do what is planned, and find nothing left to do; gives what was done."""
    change = _change(name, arguments)
    assert _do(change.actions).returncode == 0
    assert _plan(name, arguments) is None
    return change


def _snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in directory.iterdir()
    }


# --- what must not happen --------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_file_that_does_not_fit_on_the_disk_leaves_what_was_there(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "f"
    if there:
        path.write_text("old\n")
    before = _snapshot(tmp_path)
    change = _change("file", {"path": str(path), "content": "x" * 100_000, **MINE})
    assert _do(change.actions, before="ulimit -f 8; ").returncode != 0
    assert _snapshot(tmp_path) == before


def test_a_file_that_arrives_cut_short_is_not_put_in_its_place(tmp_path: Path) -> None:
    change = _change("file", {"path": str(tmp_path / "f"), "content": "whole\n", **MINE})
    (command,) = change.actions
    assert isinstance(command, Command)
    done = _sh(command.script, b"who")  # the connection broke
    assert (done.returncode, b"content cut short" in done.stderr) == (74, True)
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_another_checksum_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("not what was meant")
    (tmp_path / "f").write_text("old")
    before = _snapshot(tmp_path)
    arguments = {"url": f"file://{tmp_path}/source", "path": str(tmp_path / "f"), "sha256": "a" * 64, **MINE}
    done = _do(_change("download", arguments).actions)
    assert (done.returncode, b"wrong checksum" in done.stderr) == (65, True)
    assert _snapshot(tmp_path) == before


def test_a_directory_in_the_place_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for arguments in ({"content": "x"}, {"absent": True}):
        change = _change("file", {"path": str(tmp_path / "f"), **arguments, **MINE})
        assert _do(change.actions).returncode != 0
        assert (tmp_path / "f").is_dir()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"caf\xe9\nb\n", b"caf\xe9\nb\nz\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\nz\n"),
        (b"page\x0cbreak\x1cand\xe2\x80\xa8more\n", b"page\x0cbreak\x1cand\xe2\x80\xa8more\nz\n"),
        (b"no end", b"no end\nz\n"),
        (b"", b"z\n"),
        (b"\n\n", b"\n\nz\n"),
    ],
)
def test_the_other_lines_of_somebody_elses_file_keep_every_byte(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(before)
    change = _converges("line", {"path": str(path), "line": "z"})
    assert path.read_bytes() == after
    assert _do(change.undo).returncode == 0
    assert path.read_bytes() == before


def test_a_line_is_found_whatever_its_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\r\nz\r\n")
    assert _plan("line", {"path": str(path), "line": "z"}) is None
    assert _plan("line", {"path": str(path), "line": "z", "match": "^z$"}) is None
    _converges("line", {"path": str(path), "line": "z", "absent": True})
    assert path.read_bytes() == b"a\r\n"


def test_a_pattern_that_is_none_is_an_error_of_the_playbook() -> None:
    with pytest.raises(msgspec.ValidationError, match="not a regular expression"):
        msgspec.convert({"path": "/f", "line": "x", "match": "("}, OPERATIONS["line"].arguments)


# --- what must happen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "template"])
def test_a_file_is_written_once_and_taken_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a file's name"
    more = {"template": "x.j2"} if name == "template" else {}
    arguments = {"path": str(path), "content": "new é\n", "mode": "0600", **more, **MINE}
    change = _converges(name, arguments)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new é\n", 0o600)
    assert _do(change.undo).returncode == 0
    assert list(tmp_path.iterdir()) == []

    path.write_text("old")
    path.chmod(0o644)
    before = _snapshot(tmp_path)
    change = _converges(name, arguments)
    assert _do(change.undo).returncode == 0
    assert _snapshot(tmp_path) == before


def test_only_the_mode_differs(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    path.chmod(0o666)
    change = _converges("file", {"path": str(path), "content": "x", "mode": "0640", **MINE})
    assert f"-{MINE['owner']}:{MINE['group']} 0666" in change.diff
    assert path.stat().st_mode & 0o777 == 0o640
    assert _do(change.undo).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o666


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "f").symlink_to("theirs")
    change = _converges("file", {"path": str(tmp_path / "f"), "content": "ours", **MINE})
    assert change.undo is None
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "f").is_symlink()


def test_a_file_that_must_not_be_there_goes_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    before = _snapshot(tmp_path)
    change = _converges("file", {"path": str(path), "absent": True})
    assert not path.exists()
    assert _do(change.undo).returncode == 0
    assert _snapshot(tmp_path) == before


def test_a_directory_is_made_once_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "d"
    change = _converges("directory", {"path": str(path), "mode": "0750", **MINE})
    assert path.stat().st_mode & 0o777 == 0o750
    assert _do(change.undo).returncode == 0
    assert not path.exists()
    path.mkdir(mode=0o700)
    change = _converges("directory", {"path": str(path), "mode": "0750", **MINE})
    assert _do(change.undo).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_download_is_fetched_once_and_taken_back(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"data")
    path = tmp_path / "f"
    digest = hashlib.sha256(b"data").hexdigest()
    arguments = {"url": f"file://{tmp_path}/source", "path": str(path), "sha256": digest, **MINE}
    change = _converges("download", arguments)
    assert path.read_bytes() == b"data"
    assert _do(change.undo).returncode == 0
    assert not path.exists()


def test_a_command_runs_until_its_guard_is_content(tmp_path: Path) -> None:
    path = tmp_path / "f"
    arguments = {"run": f"cat > {path}", "unless": f"test -s {path}", "stdin": "given", "undo": f"rm {path}"}
    change = _converges("command", arguments)
    assert path.read_text() == "given"
    assert _do(change.undo).returncode == 0
    assert _plan("command", arguments) is not None


def test_waiting_ends_when_it_has_become_so_and_when_it_has_not(tmp_path: Path) -> None:
    path = tmp_path / "f"
    change = _change("wait_for", {"until": f"test -e {path}", "what": "it's there", "timeout": 0})
    done = _do(change.actions)
    assert (done.returncode, done.stderr) == (1, b"not within 0 s: it's there\n")
    told = _change("wait_for", {"until": "echo no driver; false", "what": "a GPU is there", "timeout": 0})
    assert _do(told.actions).stderr == b"not within 0 s: a GPU is there\nno driver\n"
    path.touch()
    assert _do(change.actions).returncode == 0
    assert _plan("wait_for", {"until": f"test -e {path}", "what": "it"}) is None


def test_an_environment_without_its_last_marker_is_built_anew(tmp_path: Path) -> None:
    old, new, link = tmp_path / "releases/1", tmp_path / "releases/2", tmp_path / "current"
    old.mkdir(parents=True)
    new.mkdir()
    link.symlink_to(old)
    arguments = {
        "path": str(new),
        "wheels": str(tmp_path),
        "requirements": "all.txt",
        "digest": "d2",
        "link": str(link),
    }
    for marker in (None, "", "d1\n"):  # killed before it, a power cut in it, another content
        if marker is not None:
            (new / ".complete").write_text(marker)
        change = _change("venv", arguments)
        assert len(change.actions) == 2
        assert f"{link} points to {old}" in change.reason
    (new / ".complete").write_text("d2\n")
    change = _converges("venv", arguments)
    assert len(change.actions) == 1
    assert link.resolve() == new
    assert _do(change.undo).returncode == 0
    assert link.resolve() == old


def test_a_file_that_came_after_the_plan_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for there in ("", "old\n"):
        if there:
            path.write_text(there)
        change = _change("line", {"path": str(path), "line": "mine"})
        path.write_text("what a package brought\n")
        done = _do(change.actions)
        assert (done.returncode, b"run it again" in done.stderr) == (1, True)
        assert path.read_text() == "what a package brought\n"
        path.unlink()
    change = _change("file", {"path": str(path), "content": "mine\n", "once": True, **MINE})
    path.write_text("what a package brought\n")
    assert _do(change.actions).returncode == 0
    assert path.read_text() == "what a package brought\n"
