"""The client: finds the leader, submits, follows the answer through failures, and resumes by request id."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import zmq

from qaicl import errors
from qaicl.wire import endpoints, frames, keys, sockets
from qaicl.wire.messages import (
    Accepted,
    Cancel,
    Completed,
    Message,
    NotLeader,
    Outcome,
    Refused,
    RequestSpec,
    Resume,
    Submit,
    Token,
    Tokens,
)

Reply = TypeVar("Reply", bound=Message)

PATIENCE = 10.0
"""Seconds without any orchestrator that leads after which the cluster counts as unreachable."""
ASK_AGAIN = 0.25
"""Seconds without an answer after which another orchestrator is tried."""
ASK_SOON = 0.1
"""The same where one answered that it does not lead: there may be a new leader in a moment."""

SILENCE = 5.0
"""Seconds without a word after which the leader is asked again: a message may have been lost."""

_NO_MORE = object()


@dataclass(frozen=True, slots=True)
class Update:
    """What has become known of one request: new tokens, or how it ended."""

    request: str
    tokens: tuple[Token, ...] = ()
    outcome: Outcome | None = None
    accepted: bool = False


@dataclass(slots=True)
class _Following:
    spec: RequestSpec | None
    have: int = 0
    accepted: bool = False


@dataclass(slots=True)
class _Line:
    """The connection to one orchestrator."""

    orchestrator: endpoints.Orchestrator
    socket: zmq.Socket[bytes]
    monitor: sockets.Monitor
    up: bool = False


@dataclass(slots=True)
class Client:
    """A connection to a cluster; use it as a context manager. Not thread-safe.

    Args:
        context: the context directory, with ``endpoints.toml`` and ``keys/client.key_secret``.
        patience: seconds without a leader before giving up.

    Raises:
        UnreachableError: there is no such context.
        NotAuthorisedError: the key file is missing or readable by others.
    """

    context: Path
    patience: float = PATIENCE
    _zmq: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    _lines: list[_Line] = field(default_factory=list)
    _poller: zmq.Poller = field(default_factory=zmq.Poller)
    _current: int = 0
    _following: dict[str, _Following] = field(default_factory=dict)
    _silent_since: float = field(default_factory=time.monotonic)
    _asked: float = 0.0
    _ask_at: int | None = None
    _question: Message | None = None

    def __post_init__(self) -> None:
        known = endpoints.read(self.context)
        pair = keys.load_secret(self.context / "keys" / "client.key_secret")
        for entry in known:
            socket = sockets.dealer(self._zmq, entry.endpoint, entry.public_key, pair, connect=False)
            line = _Line(entry, socket, sockets.Monitor(socket))
            self._lines.append(line)
            self._poller.register(socket, zmq.POLLIN)
            self._poller.register(line.monitor.socket, zmq.POLLIN)
            socket.connect(entry.endpoint)
        if not self._lines:
            raise errors.UnreachableError(
                f"the context '{self.context.name}' names no orchestrator", fix="run: qaicl up"
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines:
            line.monitor.close()
            line.socket.close(linger=0)
        self._lines.clear()
        self._zmq.term()

    # --- requests --------------------------------------------------------------------------------

    def ask(self, specs: Iterable[RequestSpec | None]) -> Iterator[Update]:
        """Submit requests and yield what comes, until all have ended.

        ``specs`` is read while answers come in; a None from it means that nothing is to be submitted just now.

        Raises:
            BusyError, PromptError, UnknownModelError, …: a request was refused.
            UnreachableError: no orchestrator leads for ``patience`` seconds.
        """
        source = iter(specs)
        waiting = True
        while waiting or self._following:
            while waiting:
                spec = next(source, _NO_MORE)
                if spec is None:
                    break
                if not isinstance(spec, RequestSpec):
                    waiting = False
                    break
                if not self._following:
                    self._silent_since = time.monotonic()
                self._following[spec.id] = _Following(spec)
                self._send(Submit(spec))
            yield from self._updates(0.001 if waiting else ASK_AGAIN)

    def resume(self, request: str, have: int = 0) -> Iterator[Update]:
        """Go on with a request that was submitted before, from its token ``have`` on."""
        self._following[request] = _Following(None, have)
        self._silent_since = time.monotonic()
        self._send(Resume(request, have))
        while self._following:
            yield from self._updates(ASK_AGAIN)

    def cancel(self, request: str) -> None:
        """Tell the cluster that nobody wants the answer any more."""
        self._send(Cancel(request))

    def _updates(self, wait: float) -> Iterator[Update]:
        for message in self._receive(wait):
            update = self._understand(message)
            if update is not None:
                yield update

    def _understand(self, message: Message) -> Update | None:
        match message:
            case Tokens(request, _, first, tokens):
                following = self._following.get(request)
                if following is None or first > following.have:
                    return None
                news = tokens[following.have - first :]
                following.have += len(news)
                return Update(request, news) if news else None
            case Completed(outcome):
                return Update(outcome.id, outcome=outcome) if self._following.pop(outcome.id, None) else None
            case Accepted(request):
                following = self._following.get(request)
                if following is None or following.accepted:
                    return None
                following.accepted = True
                return Update(request, accepted=True)
            case Refused():
                raise _as_error(message)
            case _:
                return None

    def _again(self) -> None:
        """Tell the next leader what we follow and how far we are."""
        for request, following in self._following.items():
            following.accepted = False
            if following.spec is not None:
                self._send(Submit(following.spec, following.have))
            else:
                self._send(Resume(request, following.have))

    # --- one question, one answer ----------------------------------------------------------------

    def call(self, message: Message, expect: type[Reply]) -> Reply:
        """Ask the leader one thing, such as its status.

        Raises:
            UnreachableError: nobody leads.
            UsageError: the leader refused.
        """
        self._silent_since = time.monotonic()
        self._question = message
        self._send(message)
        try:
            while True:
                for answer in self._receive(ASK_AGAIN):
                    if isinstance(answer, expect):
                        return answer
                    if isinstance(answer, Refused):
                        raise _as_error(answer)
        finally:
            self._question = None

    def orchestrators(self) -> list[dict[str, object]]:
        """All orchestrators of the context, whether each can be reached, and which one answered last."""
        return [
            {
                "name": line.orchestrator.name,
                "endpoint": line.orchestrator.endpoint,
                "connected": line.up,
                "leader": index == self._current,
            }
            for index, line in enumerate(self._lines)
        ]

    # --- lines -----------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        self._asked = time.monotonic()
        line = self._lines[self._current]
        with contextlib.suppress(zmq.Again):
            line.socket.send_multipart(frames.encode(message), zmq.DONTWAIT)

    def _receive(self, wait: float) -> list[Message]:
        """Wait a moment; return what the leader said, and look for another when it is not there."""
        found: list[Message] = []
        if self._unanswered():
            wait = min(wait, max(0.0, self._asked + ASK_AGAIN - time.monotonic()))
        ready = dict(self._poller.poll(math.ceil(wait * 1000)))
        now = time.monotonic()
        for index, line in enumerate(self._lines):
            if line.monitor.socket in ready:
                self._watch(index, line)
            if line.socket in ready:
                found += self._drain(index, line, now)
        if now - self._asked > ASK_AGAIN and self._unanswered():
            self._turn_to((self._current + 1) % len(self._lines))
        elif now - self._silent_since > SILENCE and now - self._asked > SILENCE:
            self._again()
        if now - self._silent_since > self.patience and self._unanswered():
            raise errors.UnreachableError(
                f"the cluster of the context '{self.context.name}' does not answer",
                why=f"no orchestrator led for {self.patience:g} s; tried "
                + ", ".join(line.orchestrator.endpoint for line in self._lines),
                fix="start it with: qaicl up, or look at: qaicl doctor",
            )
        return found

    def _unanswered(self) -> bool:
        return self._question is not None or any(not following.accepted for following in self._following.values())

    def _watch(self, index: int, line: _Line) -> None:
        for event in line.monitor.events():
            if event.refused:
                raise errors.NotAuthorisedError(
                    f"{line.orchestrator.name} at {line.orchestrator.endpoint} refuses this key",
                    why="the client's key is not on the cluster's allow-list, or the server's key is another",
                    fix=f"compare {self.context}/keys and endpoints.toml with the cluster's",
                )
            was, line.up = line.up, event.connected
            if line.up and not was and index == self._current and self._unanswered():
                self._again()
            elif was and not line.up and index == self._current:
                for following in self._following.values():
                    following.accepted = False
                self._silent_since = time.monotonic()
                self._turn_to((index + 1) % len(self._lines))

    def _drain(self, index: int, line: _Line, now: float) -> list[Message]:
        found: list[Message] = []
        while True:
            try:
                parts = line.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return found
            try:
                message, _ = frames.decode(parts)
            except frames.BadFrame:
                continue
            if isinstance(message, NotLeader):
                for following in self._following.values():
                    following.accepted = following.accepted and index != self._current
                self._ask_at = self._place_of(message.leader, index)
                self._asked = min(self._asked, now - ASK_AGAIN + ASK_SOON)
                continue
            self._silent_since = now
            found.append(message)

    def _place_of(self, leader: str, asked: int) -> int:
        for index, line in enumerate(self._lines):
            if line.orchestrator.name == leader and index != asked:
                return index
        return (asked + 1) % len(self._lines)

    def _turn_to(self, index: int) -> None:
        """Try another orchestrator: the one that was named as leader, else the next; a connected one, if any is."""
        self._current = index if self._ask_at is None else self._ask_at
        if not self._lines[self._current].up:
            others = [(index + step) % len(self._lines) for step in range(len(self._lines))]
            self._current = next((other for other in others if self._lines[other].up), self._current)
        self._ask_at = None
        if self._question is not None:
            self._send(self._question)
        self._again()


def _as_error(refused: Refused) -> errors.QaiclError:
    if refused.error == "BusyError":
        return errors.BusyError(refused.what, retry_after=refused.retry_after, why=refused.why, fix=refused.fix)
    kind = getattr(errors, refused.error, errors.RequestFailedError)
    error: errors.QaiclError = kind(refused.what, why=refused.why, fix=refused.fix)
    return error
