"""The two kinds of sockets, both with CURVE, and the monitor that sees a peer come and go."""

from __future__ import annotations

import contextlib
import errno
from enum import StrEnum
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from qaicl.errors import NotAuthorisedError, PortTakenError, WireError
from qaicl.wire.keys import KeyPair

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]

HEARTBEAT_MS = 1000
DEAD_AFTER_MS = 3000
"""Silence after which a peer counts as gone; a process that is stopped or cut off shows no other sign."""
HANDSHAKE_MS = 5000
RECONNECT_FIRST_MS = 50
RECONNECT_LAST_MS = 1000
HIGH_WATER = 10_000
"""Messages held for one peer, each way."""
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Largest frame: 4096 positions of 4096 float32 values."""
FAILED_HANDSHAKES = 3
"""Handshakes that must break off without a word, in a row, until that counts as a refusal."""


def router(context: Context, bind: str, keypair: KeyPair, domain: str) -> Socket:
    """A server socket: addresses peers by identity, and says so (EHOSTUNREACH) when one is not there.

    A peer that connects again under its identity replaces its old self.

    Args:
        context: a context with a ``Gate``, or nobody gets in.
        bind: where to listen; port 0 or ``*`` takes a free one, see the socket's ``last_endpoint``.
        keypair: the server's own.
        domain: what the gate knows this socket by.

    Raises:
        PortTakenError: another process listens there.
        WireError: the address is not one of this machine, or cannot be listened on.
    """
    socket = context.socket(zmq.ROUTER)
    try:
        _common(socket, keypair)
        socket.curve_server = True
        socket.zap_domain = domain.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.router_mandatory = True
        socket.router_handover = True
        _bind(socket, bind)
    except BaseException:
        socket.close(0)
        raise
    return socket


def dealer(
    context: Context,
    endpoint: str,
    server_public_key: str,
    keypair: KeyPair,
    identity: bytes = b"",
    *,
    connect: bool = True,
) -> Socket:
    """A client socket to one server: it reconnects by itself, and queues nothing while nobody is there.

    Args:
        endpoint: the server's address.
        server_public_key: Z85; a server with another key gets nothing from us.
        keypair: our own.
        identity: what the server's router calls us; empty lets it choose.
        connect: False leaves connecting to the caller, who wants a monitor in place first.

    Raises:
        NotAuthorisedError: the server's key is not one.
        WireError: the endpoint is not an address.
    """
    socket = context.socket(zmq.DEALER)
    try:
        _common(socket, keypair)
        try:
            socket.curve_serverkey = server_public_key.encode("ascii")
        except (zmq.ZMQError, ValueError) as error:
            raise NotAuthorisedError(
                f"the public key of {endpoint} is not one",
                why=f"'{server_public_key}' is not 40 characters of Z85",
                fix="copy it again from the server's .key file",
            ) from error
        socket.immediate = True
        if identity:
            socket.routing_id = identity
        if connect:
            _connect(socket, endpoint)
    except BaseException:
        socket.close(0)
        raise
    return socket


def reconnect(socket: Socket, endpoint: str) -> None:
    """Begin anew with a dealer's connection.

    A dealer tries again by itself after a lost connection, and not after a refusal or a breach of the protocol: there
    its session has ended for good. Call this then, after a pause, or whenever it has been without its peer for long.
    """
    with contextlib.suppress(zmq.ZMQError):
        # The session is gone where the server refused it.
        socket.disconnect(endpoint)
    _connect(socket, endpoint)


def _connect(socket: Socket, endpoint: str) -> None:
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise WireError(
            f"cannot connect to {endpoint}", why=str(error), fix="an address looks like tcp://10.0.0.10:5000"
        ) from error


def _common(socket: Socket, keypair: KeyPair) -> None:
    socket.curve_publickey = keypair.public.encode()
    socket.curve_secretkey = keypair.secret.encode()
    socket.linger = 0
    socket.ipv6 = True
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = DEAD_AFTER_MS
    socket.heartbeat_ttl = DEAD_AFTER_MS
    socket.handshake_ivl = HANDSHAKE_MS
    socket.reconnect_ivl = RECONNECT_FIRST_MS
    socket.reconnect_ivl_max = RECONNECT_LAST_MS
    socket.sndhwm = HIGH_WATER
    socket.rcvhwm = HIGH_WATER
    socket.maxmsgsize = MAX_FRAME_BYTES


def _bind(socket: Socket, endpoint: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"cannot listen on {endpoint}",
                why="another process listens there",
                fix="stop it, or choose another port; 'ss -ltnp' shows who it is",
            ) from error
        if error.errno == errno.EACCES:
            fix = "choose a port above 1023"
        else:
            fix = "use an address of this machine, such as tcp://127.0.0.1:5000; 'ip address' lists them"
        raise WireError(f"cannot listen on {endpoint}", why=str(error), fix=fix) from error


class EventKind(StrEnum):
    """``connected``: the handshake is done; ``refused``: the server said no to our key; ``broken``: the handshake
    broke off without a word, as with a wrong server key or a server that dies."""

    connected = "connected"
    disconnected = "disconnected"
    refused = "refused"
    broken = "broken"


class Event(NamedTuple):
    """What a monitor saw.

    ``refused``: our key, or the server's, is not the right one; also set when handshakes break off again and again.
    ``final``: the dealer will not try again by itself, see ``reconnect``.
    """

    kind: EventKind
    endpoint: str
    refused: bool = False
    final: bool = False

    @property
    def connected(self) -> bool:
        """Is the peer there after this event?"""
        return self.kind is EventKind.connected


_KINDS = {
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): EventKind.connected,
    int(zmq.EVENT_DISCONNECTED): EventKind.disconnected,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): EventKind.refused,
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): EventKind.broken,
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): EventKind.broken,
}
_MASK = sum(_KINDS)


class Monitor:
    """Sees the peers of a socket come and go; make it before the socket connects. ``socket`` goes into a poller.

    On a dealer the events are about its one server. On a router they do not say which peer it was.
    """

    def __init__(self, socket: Socket) -> None:
        self._watched = socket
        self.socket: Socket = socket.get_monitor_socket(_MASK)
        self._broken = 0

    def events(self) -> list[Event]:
        """What happened since the last call; never waits."""
        found = []
        while self.socket.poll(0):
            message = recv_monitor_message(self.socket, zmq.DONTWAIT)
            kind = _KINDS[int(message["event"])]
            if kind is EventKind.broken:
                self._broken += 1
            elif kind is EventKind.connected:
                self._broken = 0
            refused = kind is EventKind.refused or (kind is EventKind.broken and self._broken >= FAILED_HANDSHAKES)
            final = message["event"] in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
            found.append(Event(kind, message["endpoint"].decode("utf-8", "replace"), refused, final))
        return found

    def close(self) -> None:
        """Stop watching; call it before the socket is closed."""
        if not self._watched.closed:
            self._watched.disable_monitor()
        self.socket.close(0)
