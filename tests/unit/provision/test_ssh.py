"""The connection, against a real sshd on the loopback interface."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from qaicl.errors import HostRefusedError, HostUnreachableError, LockedError
from qaicl.provision import lock, ssh
from qaicl.provision.facts import parse
from qaicl.provision.inventory import Host
from qaicl.provision.session import read_facts

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(
    SSHD is None or getpass.getuser() != "root", reason="needs sshd (openssh-server) and root, as on a machine"
)


@dataclass(frozen=True)
class Server:
    host: Host
    log: Path

    def said(self) -> str:
        return self.log.read_text()


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("sshd")
    home.chmod(0o700)
    host_key = _key(home / "host")
    (home / "authorized").write_text(_key(home / "client"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = home / "config"
    configuration.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"PidFile {home}/pid\nLogLevel VERBOSE\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    log = home / "log"
    assert SSHD is not None
    with log.open("wb") as file:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(configuration)], stderr=file)
        host = Host(
            "a", "127.0.0.1", "127.0.0.1", port, "root", str(home / "client"), " ".join(host_key.split()[:2]), ()
        )
        try:
            while "listening" not in log.read_text():
                assert process.poll() is None, log.read_text()
            yield Server(host, log)
        finally:
            process.terminate()
            process.wait(10)


def _open(host: Host) -> ssh.Connection:
    return ssh.Connection.open(host, timeout=10.0, sudo_password=lambda: None)


def test_scripts_and_stdin_reach_the_machine(server: Server) -> None:
    with _open(server.host) as connection:
        result = connection.run("echo out; echo err >&2; exit 3")
        assert (result.status, result.text, result.error_text) == (3, "out\n", "err\n")
        large = bytes(range(256)) * 20_000
        assert connection.run("cat", stdin=large).stdout == large


def test_a_secret_on_stdin_is_in_no_command_line(server: Server) -> None:
    secret = "s3cr3t-on-stdin"
    with _open(server.host) as connection:
        shown = connection.run(
            "cat >/dev/null; tr '\\0' ' ' < /proc/self/cmdline; ps axww -o args", stdin=secret.encode()
        )
    assert "ps axww" in shown.text
    assert secret not in shown.text


def test_facts_are_read_in_one_round_trip(server: Server) -> None:
    with _open(server.host) as connection:
        facts = read_facts(connection)
    assert facts.cpus >= 1
    assert facts.memory_kb > 0
    assert facts.boot_id
    assert facts.init_start >= 0
    assert parse("os=debian\npci_vendors=0x10de 0x8086 \n").nvidia


def test_another_host_key_is_refused_before_anything_is_sent(server: Server, tmp_path: Path) -> None:
    other = " ".join(_key(tmp_path / "other").split()[:2])
    before = len(server.said())
    with pytest.raises(HostRefusedError) as caught:
        _open(replace(server.host, host_key=other))
    assert caught.value.exit_code == 5
    assert "another host key" in caught.value.what
    new = server.said()[before:]
    assert "Accepted" not in new
    assert "Failed publickey" not in new


def test_no_pinned_key_and_a_refused_client_key_are_clear_errors(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostRefusedError, match="no host key is pinned"):
        _open(replace(server.host, host_key=""))
    _key(tmp_path / "stranger")
    with pytest.raises(HostRefusedError) as caught:
        _open(replace(server.host, key=str(tmp_path / "stranger")))
    assert "authorized_keys" in caught.value.fix
    with pytest.raises(HostRefusedError, match="there is no SSH key"):
        _open(replace(server.host, key=str(tmp_path / "none")))


def test_a_port_where_nothing_listens_is_unreachable(server: Server) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(HostUnreachableError) as caught:
            _open(replace(server.host, port=taken.getsockname()[1]))
    assert caught.value.exit_code == 4


def test_a_command_without_a_sign_of_life_ends(server: Server) -> None:
    with _open(server.host) as connection, pytest.raises(HostUnreachableError, match="no sign of life"):
        connection.run("sleep 60", timeout=0.3)


def test_the_fingerprint_is_learnt_without_logging_in(server: Server) -> None:
    before = len(server.said())
    key = ssh.offered_host_key(server.host, 10.0)
    assert ssh.fingerprint(key).startswith("SHA256:")
    assert f"{key.get_name()} {key.get_base64()}" == server.host.host_key
    assert "Accepted" not in server.said()[before:]


def test_a_lock_names_its_holder_and_ends_with_its_connection(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_HOLD", "_LOOK", "_BREAK"):
        monkeypatch.setattr(lock, name, getattr(lock, name).replace(lock.STATE, str(tmp_path / "state")))
    with _open(server.host) as first, _open(server.host) as second:
        held = lock.acquire(first)
        with pytest.raises(LockedError) as caught:
            lock.acquire(second)
        assert f"process {lock.me().pid}" in caught.value.why
        assert getpass.getuser() in lock.held_by(second)
        held.close()
        first.close()
        while lock.held_by(second):
            pass
        lock.acquire(second)
        with _open(server.host) as third:
            assert getpass.getuser() in lock.break_lock(third)
            lock.acquire(third)
