"""One SSH connection to one machine.

The host key is compared with the pinned one before anything of ours is sent. No agent is used or forwarded, no
key is looked for but the named one. Commands run as root: directly, through ``sudo``, or through ``sudo`` with a
password that goes over stdin. A script and a secret both travel over stdin, never in a command line.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import fabric
import paramiko

from qaicl.errors import HostRefusedError, HostUnreachableError, WrongHostKeyError
from qaicl.provision.inventory import Host

DEAD_AFTER = 20.0
"""Seconds without an acknowledgement after which the kernel gives a connection up (TCP_USER_TIMEOUT)."""

_BEGIN = "-- qaicl --"
"""What comes before it a user's shell says whenever it starts, such as a greeting in ``.bashrc``."""

_LOST = (paramiko.SSHException, EOFError, OSError)


@dataclass(frozen=True)
class Result:
    """What a command left."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        return self.stderr.decode("utf-8", "replace")


def fingerprint(key: paramiko.PKey) -> str:
    """The SHA256 fingerprint as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _open_socket(host: Host, timeout: float) -> socket.socket:
    try:
        sock = socket.create_connection((host.ssh_address, host.port), timeout=timeout)
    except OSError as error:
        raise unreachable(host, str(error)) from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(DEAD_AFTER / 2))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_AFTER * 1000))
    return sock


def unreachable(host: Host, why: str) -> HostUnreachableError:
    """The error for a host that does not, or no longer, answer."""
    return HostUnreachableError(
        f"{host.name} ({host.ssh_address}:{host.port}) does not answer",
        why=why,
        fix="is it powered on and on the network? Then run the command again: it goes on where it was",
    )


def offered_host_key(host: Host, timeout: float) -> paramiko.PKey:
    """The key that the host shows, learnt without authenticating or sending anything of ours.

    Raises:
        HostUnreachableError: nothing answers there, or not as SSH.
    """
    sock = _open_socket(host, timeout)
    transport = paramiko.Transport(sock)
    try:
        transport.start_client(timeout=timeout)
        return transport.get_remote_server_key()
    except _LOST as error:
        raise unreachable(host, str(error) or "the SSH handshake failed") from error
    finally:
        transport.close()


def _pinned_key(host: Host) -> paramiko.PKey:
    if not host.host_key:
        raise HostRefusedError(
            f"no host key is pinned for {host.name}",
            why="without it nobody knows which machine answers",
            fix=f"put it into the inventory (ssh-keyscan -t ed25519 {host.ssh_address}), "
            "or run at a terminal to confirm its fingerprint",
        )
    try:
        key_type, data = host.host_key.split()
        return paramiko.PKey.from_type_string(key_type, base64.b64decode(data))
    except (ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise HostRefusedError(
            f"the host key that is pinned for {host.name} is not a key",
            why=str(error) or type(error).__name__,
            fix=f"compare it with: ssh-keyscan -t ed25519 {host.ssh_address}",
        ) from error


def _own_key(host: Host) -> paramiko.PKey:
    path = Path(host.key).expanduser()
    if not path.is_file():
        raise HostRefusedError(
            f"there is no SSH key {path}", why=f"{host.name} names it", fix="correct 'key' in the inventory"
        )
    try:
        return paramiko.PKey.from_path(path)
    # TypeError is what cryptography raises for a key that is encrypted.
    except (OSError, TypeError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise HostRefusedError(
            f"the SSH key {path} cannot be used",
            why=str(error) or type(error).__name__,
            fix="name a private key without a passphrase (ssh-keygen -t ed25519) in the inventory's 'key'",
        ) from error


class Connection:
    """An authenticated connection on which commands run as root."""

    def __init__(self, host: Host, client: paramiko.SSHClient, sudo_password: Callable[[], str | None]) -> None:
        self.host = host
        self._client = client
        self._prefix = ""
        self._password_line = b""
        self._sftp: paramiko.SFTPClient | None = None
        if host.user != "root":
            self._prepare_sudo(sudo_password)

    @classmethod
    def open(cls, host: Host, *, timeout: float, sudo_password: Callable[[], str | None]) -> Self:
        """Connect, check the host key, authenticate, and find out how to become root.

        Args:
            sudo_password: asked only where sudo wants one.

        Raises:
            HostUnreachableError: no answer in ``timeout`` seconds.
            HostRefusedError: another host key, our key refused, or no way to become root.
        """
        pinned, own = _pinned_key(host), _own_key(host)
        sock = _open_socket(host, timeout)
        remote = fabric.Connection(
            host.ssh_address,
            user=host.user,
            port=host.port,
            # Neither ~/.ssh/config nor fabric's own files: the inventory is all that counts.
            config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
            forward_agent=False,
            connect_kwargs={
                "pkey": own,
                "allow_agent": False,
                "look_for_keys": False,
                "sock": sock,
                "timeout": timeout,
                "banner_timeout": timeout,
                "auth_timeout": timeout,
                "channel_timeout": timeout,
            },
        )
        client = remote.client
        name = host.ssh_address if host.port == 22 else f"[{host.ssh_address}]:{host.port}"
        client.get_host_keys().add(name, pinned.get_name(), pinned)
        # In place of fabric's own policy, which accepts any key.
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            cls._greet(remote, host, pinned)
            transport = client.get_transport()
            if transport is not None:
                transport.set_keepalive(5)
            return cls(host, client, sudo_password)
        except BaseException:
            client.close()
            sock.close()
            raise

    @staticmethod
    def _greet(remote: fabric.Connection, host: Host, pinned: paramiko.PKey) -> None:
        try:
            remote.open()
        except (paramiko.BadHostKeyException, paramiko.ssh_exception.IncompatiblePeer) as error:
            shown = (
                f"it shows {fingerprint(error.key)}" if isinstance(error, paramiko.BadHostKeyException) else str(error)
            )
            raise WrongHostKeyError(
                f"{host.name} shows another host key than the pinned one",
                why=f"pinned is {fingerprint(pinned)}, {shown}; nothing was sent",
                fix="find out why: a new installation, or someone in between; then correct 'host_key' in the inventory",
            ) from error
        except paramiko.AuthenticationException as error:
            raise HostRefusedError(
                f"{host.name} refuses the key {host.key} for user {host.user}",
                why=str(error),
                fix=f"put {host.key}.pub into ~{host.user}/.ssh/authorized_keys there",
            ) from error
        except _LOST as error:
            raise unreachable(host, str(error) or type(error).__name__) from error

    def _prepare_sudo(self, ask: Callable[[], str | None]) -> None:
        freely = self._exec("sudo -k -n true", b"", 20.0)
        if freely.status == 0:
            self._prefix = "sudo -k -n "
            return
        password = ask()
        if password is None:
            raise HostRefusedError(
                f"{self.host.user} cannot become root on {self.host.name}",
                why=_last_line(freely.error_text) or "sudo wants a password, or does not know the user",
                fix="give the user sudo rights, and name its password: secrets: {sudo_password: prompt}",
            )
        line = password.encode() + b"\n"
        # -k: without it a cached sudo would not read the password, and the script would begin with it.
        tried = self._exec("sudo -k -S -p '' true", line, 20.0)
        if tried.status != 0:
            raise HostRefusedError(
                f"sudo on {self.host.name} refuses {self.host.user}",
                why=(_last_line(tried.error_text) or "no reason given").replace(password, "***"),
                fix="check the password that sudo_password refers to, and the user's sudo rights",
            )
        self._prefix = "sudo -k -S -p '' "
        self._password_line = line

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, script: str, *, stdin: bytes | None = None, timeout: float = 600.0) -> Result:
        """Run a POSIX shell script as root.

        Args:
            script: holds no secret where ``stdin`` is given, for then it stands in the command line.
            stdin: what the script reads; without it the script itself goes over stdin.
            timeout: seconds of silence after which the command counts as hung.

        Raises:
            HostUnreachableError: the connection broke or the command fell silent.
        """
        script = f"echo {_BEGIN}\n{script}"
        if stdin is None:
            command, data = "sh -s", script.encode()
        else:
            command, data = f"sh -c {shlex.quote(script)}", stdin
        result = self._exec(self._prefix + command, self._password_line + data, timeout)
        before, begun, after = result.stdout.partition(f"{_BEGIN}\n".encode())
        return replace(result, stdout=after if begun else before)

    def start(self, script: str, stdin: bytes) -> paramiko.Channel:
        """Start a script as root that runs for as long as the returned channel's stdin is open."""
        try:
            channel = self._transport().open_session(timeout=20.0)
            channel.exec_command(f"{self._prefix}sh -c {shlex.quote(script)}")
            channel.sendall(self._password_line + stdin)
        except _LOST as error:
            raise unreachable(self.host, f"the connection broke: {error}") from error
        return channel

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise unreachable(self.host, "the connection is closed")
        return transport

    def _exec(self, command: str, data: bytes, timeout: float) -> Result:
        try:
            channel = self._transport().open_session(timeout=20.0)
            channel.settimeout(timeout)
            channel.exec_command(command)
            writer = threading.Thread(target=_feed, args=(channel, data), daemon=True)
            writer.start()
            stdout, stderr = _collect(channel, timeout)
            # A connection that dies ends the streams too; only a living one has an exit status.
            status = channel.recv_exit_status()
            writer.join(timeout=5.0)
            channel.close()
        except _LOST as error:
            raise unreachable(self.host, f"the connection broke: {error or type(error).__name__}") from error
        if status == -1:
            raise unreachable(self.host, "the connection broke while a command ran")
        return Result(status, stdout, stderr)

    def sftp(self) -> paramiko.SFTPClient:
        """The connection's SFTP channel, as the login user.

        Raises:
            HostUnreachableError: the server offers none, or the connection broke.
        """
        try:
            if self._sftp is None:
                self._sftp = paramiko.SFTPClient.from_transport(
                    self._transport(), window_size=2**24, max_packet_size=2**17
                )
                if self._sftp is None:
                    raise unreachable(self.host, "its SSH server offers no SFTP")
            return self._sftp
        except _LOST as error:
            raise unreachable(self.host, f"no SFTP: {error}") from error


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _feed(channel: paramiko.Channel, data: bytes) -> None:
    try:
        channel.sendall(data)
        channel.shutdown_write()
    except _LOST:
        return  # the command ended without reading all; its exit status tells


def _collect(channel: paramiko.Channel, timeout: float) -> tuple[bytes, bytes]:
    """Both streams to their end; ``socket.timeout`` after ``timeout`` seconds of silence."""
    out, err = bytearray(), bytearray()
    last = time.monotonic()
    event = threading.Event()
    channel.in_buffer.set_event(event)
    channel.in_stderr_buffer.set_event(event)
    while True:
        moved = False
        while channel.recv_ready():
            out += channel.recv(65536)
            moved = True
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(65536)
            moved = True
        if moved:
            last = time.monotonic()
            continue
        if channel.closed or (channel.eof_received and channel.exit_status_ready()):
            if not (channel.recv_ready() or channel.recv_stderr_ready()):
                return bytes(out), bytes(err)
            continue
        if time.monotonic() - last > timeout:
            channel.close()
            raise TimeoutError(f"no sign of life for {timeout:g} s")
        event.clear()
        event.wait(0.05)
