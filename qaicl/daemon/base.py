"""What every daemon is: a router socket behind CURVE, a store connection, a poll loop, an orderly end."""

from __future__ import annotations

import signal
import socket as system
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import FrameType
from typing import ClassVar

import zmq

from qaicl.daemon import processes
from qaicl.daemon.log import Log
from qaicl.settings import Settings
from qaicl.store import writer
from qaicl.store.address import Address
from qaicl.store.writer import StoreWorker
from qaicl.wire import frames, keys, sockets, zap
from qaicl.wire.messages import Message

BATCH = 256
"""Messages taken from the router before the other sockets get their turn."""


class Daemon(ABC):
    """Runs until SIGTERM or SIGINT.

    Args:
        settings: of the context.
        name: in the cluster.
        bind: where to listen.

    Raises:
        PortTakenError: another process listens there.
        NotAuthorisedError: the daemon's key is missing or readable by others.
    """

    role: ClassVar[str]
    domain_roles: ClassVar[frozenset[str]]
    tick: ClassVar[float] = 0.25

    def __init__(self, settings: Settings, name: str, bind: str) -> None:
        self.settings = settings
        self.name = name
        self.log = Log(name)
        context = settings.paths.context(settings.context)
        self.keypair = keys.load_secret(context / "keys" / f"{name}.key_secret")
        self.allowed = keys.AllowList(context / "keys" / "allowed")
        self.zmq: sockets.Context = zmq.Context()
        self._gate = zap.Gate(self.zmq, self.allowed, {self.role: self.domain_roles})
        self._gate.start()
        self._router = sockets.router(self.zmq, bind, self.keypair, self.role)
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        store = settings.values.store
        self.store = StoreWorker(Address.parse(store), store.namespace, name, store.result_ttl)
        self._poller = zmq.Poller()
        self._calls: dict[object, Callable[[], None]] = {}
        self._wake_read, self._wake_write = system.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._stopping = False
        self._complained: dict[str, float] = {}

    # --- for the daemons -------------------------------------------------------------------------

    @abstractmethod
    def started(self) -> None:
        """The loop is about to begin."""

    @abstractmethod
    def received(self, parts: Sequence[zmq.Frame]) -> None:
        """A message on the router, identity first."""

    @abstractmethod
    def ticked(self, now: float) -> None:
        """Every ``tick`` seconds."""

    @abstractmethod
    def ending(self) -> None:
        """The loop has ended."""

    def woken(self) -> None:  # noqa: B027
        """Another thread called ``wake``."""

    @abstractmethod
    def stored(self, event: writer.Event) -> None:
        """The store answered, went away or came back."""

    def wake(self) -> None:
        """Have ``woken`` called soon; safe from any thread."""
        try:
            self._wake_write.send(b"\0")
        except BlockingIOError:
            return

    def poll(self, socket: zmq.Socket[bytes], call: Callable[[], None]) -> None:
        """Call when the socket can be read."""
        self._poller.register(socket, zmq.POLLIN)
        self._calls[socket] = call

    def unpoll(self, socket: zmq.Socket[bytes]) -> None:
        """Forget a socket."""
        if self._calls.pop(socket, None) is not None:
            self._poller.unregister(socket)

    def send(self, identity: bytes, message: Message) -> None:
        """To a peer of the router; dropped where it has gone."""
        try:
            self._router.send_multipart([identity, *frames.encode(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise

    def bad_frame(self, parts: Sequence[zmq.Frame], error: frames.BadFrame) -> None:
        """Log a frame that is no message, with its sender's key; a flood of them is logged once a reason and second."""
        now = time.monotonic()
        if now - self._complained.get(error.reason, -1.0) >= 1.0:
            self._complained[error.reason] = now
            count = frames.bad_frames[error.reason]
            self.log("warning", "bad-frame", reason=error.reason, key=zap.peer_key(parts[0]), count=count)

    def stop(self) -> None:
        """End the loop after what is being done."""
        self._stopping = True

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        self.store.start()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._wake_read.fileno(), zmq.POLLIN)
        self._poller.register(self.store.fileno(), zmq.POLLIN)
        self.started()
        self.log("info", "listening", endpoint=self.endpoint)
        try:
            self._loop()
        finally:
            self.ending()
            self.store.stop()
            self._router.close(0)
            self._gate.stop()
            self.zmq.term()
            self.log("info", "stopped")

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _loop(self) -> None:
        next_tick = time.monotonic()
        while not self._stopping:
            wait = max(0.0, next_tick - time.monotonic())
            ready = dict(self._poller.poll(int(wait * 1000) + 1))
            if self._wake_read.fileno() in ready:
                self._wake_read.recv(4096)
                self.woken()
            if self.store.fileno() in ready:
                for event in self.store.drain():
                    self.stored(event)
            if self._router in ready:
                self._drain()
            for socket in ready:
                call = self._calls.get(socket)
                if call is not None:
                    call()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + self.tick
                if processes.abandoned():
                    self.log("warning", "abandoned")
                    return
                self.ticked(now)

    def _drain(self) -> None:
        for _ in range(BATCH):
            try:
                parts = self._router.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            self.received(parts)
