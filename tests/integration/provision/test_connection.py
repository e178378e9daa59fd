"""Who is let in and who is not: host keys, client keys, users, sudo. Nothing of ours goes to a machine unchecked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pretend import Machine, wait_until

from qaicl.errors import HostRefusedError, HostUnreachableError, WrongHostKeyError
from qaicl.provision import ssh
from qaicl.provision.inventory import Host
from qaicl.provision.session import read_facts

SERVICE_REQUEST = "receive packet: type 5"
"""How sshd, at its most talkative, notes SSH_MSG_SERVICE_REQUEST: what a client sends before its user name."""
PASSWORD = "correct horse battery"


def _open(host: Host, password: Callable[[], str | None] = lambda: None) -> ssh.Connection:
    return ssh.Connection.open(host, timeout=10.0, sudo_password=password)


def _ended(machine: Machine) -> bool:
    """Whether the server has seen the end of a connection that did not log in."""
    return "Connection closed by" in machine.log or "Connection reset by" in machine.log


# --- host keys -----------------------------------------------------------------------------------------


def test_a_machine_with_another_key_hears_neither_name_nor_request(machine: Machine) -> None:
    with pytest.raises(WrongHostKeyError) as caught:
        _open(replace(machine.host, host_key=machine.keys.public(machine.keys.other)))
    assert caught.value.exit_code == 5
    wait_until(lambda: _ended(machine))
    assert "KEX done" in machine.log
    assert SERVICE_REQUEST not in machine.log
    assert "userauth" not in machine.log

    _open(machine.host).close()  # what the same server notes of somebody who goes on
    assert SERVICE_REQUEST in machine.log
    assert "userauth-request for user root" in machine.log


def test_learning_a_fingerprint_sends_nothing_either(machine: Machine) -> None:
    ssh.offered_host_key(machine.host, 10.0)
    wait_until(lambda: _ended(machine))
    assert "KEX done" in machine.log
    assert SERVICE_REQUEST not in machine.log


def test_a_pinned_key_of_another_kind_than_the_first_offered_is_asked_for(machine: Machine, tmp_path: Path) -> None:
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(rsa)], check=True)
    machine.stop()
    with (machine.root / "config").open("a") as file:
        file.write(f"HostKey {rsa}\n")
    machine.start()
    for host_key in (machine.keys.public(rsa), machine.host.host_key):
        with _open(replace(machine.host, host_key=host_key)) as connection:
            assert connection.run("echo here").text == "here\n"


def test_a_pinned_text_that_is_no_key_is_said_before_connecting(machine: Machine) -> None:
    for text in ("ssh-ed25519 AAAA", "ssh-ed25519", "ssh-none AAAA", "ssh-ed25519 =x="):
        with pytest.raises(HostRefusedError, match="is not a key"):
            _open(replace(machine.host, host_key=text))
    assert "Connection from" not in machine.log


# --- our key, our user -----------------------------------------------------------------------------------


def test_a_key_that_cannot_be_used_is_not_called_an_unreachable_machine(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_text("not a key")
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)], check=True)
    for path in (tmp_path / "garbage", locked):
        with pytest.raises(HostRefusedError, match="cannot be used") as caught:
            _open(replace(machine.host, key=str(path)))
        assert "passphrase" in caught.value.fix
    assert "Connection from" not in machine.log


def test_a_user_without_a_shell_is_named(machine: Machine) -> None:
    machine.fake("sudo", "exit 0")
    with pytest.raises(HostRefusedError, match="mute cannot become root"):
        _open(replace(machine.host, user="mute"))
    passwd = machine.root / "passwd"
    passwd.write_text(passwd.read_text().replace("/home/root:/bin/sh", "/home/root:/bin/false"))
    with _open(machine.host) as connection, pytest.raises(HostRefusedError, match="runs no command for root"):
        read_facts(connection)


def test_a_shell_that_greets_is_not_taken_for_the_answer(machine: Machine) -> None:
    shell = machine.root / "bin/greeter"
    shell.write_text('#!/bin/sh\necho "Welcome to a"; echo "os=none" >&2; exec /bin/sh "$@"\n')
    shell.chmod(0o755)
    passwd = machine.root / "passwd"
    passwd.write_text(passwd.read_text().replace("/home/root:/bin/sh", f"/home/root:{shell}"))
    with _open(machine.host) as connection:
        assert connection.run("echo out").text == "out\n"
        assert connection.run("cat", stdin=b"in").text == "in"
        assert connection.run("exit 3").text == ""


# --- sudo ------------------------------------------------------------------------------------------------


def test_without_sudo_there_is_no_way_on(machine: Machine) -> None:
    with pytest.raises(HostRefusedError, match="plain cannot become root") as caught:
        _open(replace(machine.host, user="plain"))
    assert "sudo_password" in caught.value.fix


def test_what_sudo_says_is_told(machine: Machine) -> None:
    machine.fake("sudo", "echo 'sudo: sorry, you must have a tty to run sudo' >&2; exit 1")
    with pytest.raises(HostRefusedError, match="op cannot become root") as caught:
        _open(replace(machine.host, user="op"))
    assert caught.value.why == "sudo: sorry, you must have a tty to run sudo"


def test_a_sudo_that_wants_no_password_asks_nobody(machine: Machine) -> None:
    machine.sudo(password="")

    def never() -> str:
        raise AssertionError("the person was asked for a password that nobody wants")

    with _open(replace(machine.host, user="op"), never) as connection:
        assert connection.run("id -u").text == "0\n"


def test_sudo_reads_the_password_and_the_script_what_follows_it(machine: Machine) -> None:
    machine.sudo(PASSWORD)
    with _open(replace(machine.host, user="op"), lambda: PASSWORD) as connection:
        assert connection.run("id -u; echo done").text == "0\ndone\n"
        data = bytes(range(256)) * 1000
        assert connection.run("cat", stdin=data).stdout == data
        assert connection.run("cat").text == ""
        shown = connection.run("tr '\\0' ' ' < /proc/$PPID/cmdline; env").text
    assert PASSWORD not in shown
    arguments = (machine.root / "run/sudo.log").read_text()
    assert "-k -S -p" in arguments
    assert PASSWORD not in arguments
    assert PASSWORD not in machine.log


def test_a_wrong_password_is_refused_and_not_repeated(machine: Machine) -> None:
    machine.sudo(PASSWORD)
    with pytest.raises(HostRefusedError, match="refuses op") as caught:
        _open(replace(machine.host, user="op"), lambda: "hunter22")
    assert "incorrect password" in caught.value.why
    assert "hunter22" not in str(caught.value)


# --- connections that break ------------------------------------------------------------------------------


def test_a_power_cut_during_a_command_is_a_machine_that_does_not_answer(machine: Machine) -> None:
    with _open(machine.host) as connection:
        channel = connection.start("echo begun; sleep 60", b"")
        assert channel.recv(100) == b"begun\n"
        machine.stop()
        with pytest.raises(HostUnreachableError) as caught:
            connection.run("true")
        assert caught.value.exit_code == 4


def test_something_that_is_not_ssh_is_a_machine_that_does_not_answer(machine: Machine) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            other, _ = server.accept()
            with other:
                other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        host = replace(machine.host, ssh_address="127.0.0.1", port=server.getsockname()[1])
        with pytest.raises(HostUnreachableError):
            _open(host)
        thread.join()
