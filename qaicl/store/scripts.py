"""From an operation to the one command that carries it out, and from its raw reply to an answer.

All keys of a namespace carry it as their hash tag (``{qaicl}:…``), so that on a Redis Cluster they share a slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any, cast

from qaicl.errors import StoreError
from qaicl.store import ops

Argument = str | bytes | int

_LEASE = ("lease",)
_PARTS: dict[str, tuple[str, ...]] = {
    "acquire": _LEASE,
    "renew": _LEASE,
    "takeover": _LEASE,
    "release": _LEASE,
    "accept": ("fence",),
    "tokens": ("fence",),
    "finish": ("fence", "ending"),
    "reaccept": ("fence", "ending"),
    "load": ("read",),
    "load_open": ("read",),
    "verify": (),
    "announce": (),
    "withdraw": (),
    "list": (),
}
"""The scripts, and what is put in front of each."""


@cache
def sources() -> dict[str, str]:
    """The text of each script."""
    directory = resources.files("qaicl.store") / "lua"

    def text(name: str) -> str:
        return (directory / f"{name}.lua").read_text(encoding="utf-8")

    return {name: "\n".join(text(part) for part in (*parts, name)) for name, parts in _PARTS.items()}


@cache
def _digests() -> dict[str, str]:
    return {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in sources().items()}


class Scripts:
    """The commands of one namespace, spoken by one holder.

    Args:
        namespace: the prefix of all keys.
        holder: who speaks; beside the epoch it tells two leaders apart. Empty for those who never lead.
        result_ttl_ms: how long an ended request is kept.
    """

    def __init__(self, namespace: str, holder: str = "", result_ttl_ms: int = 86_400_000) -> None:
        self._prefix = f"{{{namespace}}}:"
        self._holder = holder
        self._ttl = result_ttl_ms
        self._fence = self._prefix + "fence"
        self._requests = self._prefix + "requests"
        self._results = self._prefix + "results"
        self._lease = (self._fence, self._prefix + "lease")

    @property
    def probe(self) -> tuple[Argument, ...]:
        """A write that fails wherever a script's writes would."""
        return ("SET", self._prefix + "probe", "1", "PX", 1000)

    @staticmethod
    def loading() -> list[tuple[Argument, ...]]:
        """The commands that make all scripts known to a server."""
        return [("SCRIPT", "LOAD", text) for text in sources().values()]

    def _request(self, id: str) -> str:
        return f"{self._prefix}req:{id}"

    def _tokens(self, id: str) -> str:
        return f"{self._prefix}tok:{id}"

    def _ending(self, id: str) -> tuple[str, ...]:
        return (self._fence, self._requests, self._request(id), self._tokens(id), self._results)

    def _registry(self, registry: ops.Registry) -> tuple[str, str]:
        """Prefix of the records, and the index, which is the name of the channel as well."""
        short = "node" if registry == "node" else "orch"
        return f"{self._prefix}{short}:", f"{self._prefix}{short}s"

    def channel(self, registry: ops.Registry) -> str:
        """Where the names of records that come and go are published."""
        return self._registry(registry)[1]

    def command(self, op: ops.Op) -> tuple[Argument, ...]:
        """The command for an operation."""
        match op:
            case ops.RecordTokens(id, epoch, first, tokens):
                keys = (self._fence, self._request(id), self._tokens(id))
                return _call("tokens", keys, epoch, self._holder, first, *tokens)
            case ops.Accept(id, payload, epoch):
                keys = (self._fence, self._requests, self._request(id))
                return _call("accept", keys, epoch, self._holder, id, payload)
            case ops.Finish(id, epoch, state, result, count):
                return _call("finish", self._ending(id), epoch, self._holder, id, state, result, self._ttl, count)
            case ops.Reaccept(id, epoch, payload, tokens, state, result):
                rest: tuple[Argument, ...] = (id, payload, state, result, self._ttl, *tokens)
                return _call("reaccept", self._ending(id), epoch, self._holder, *rest)
            case ops.Load(id):
                return _call("load", (self._request(id), self._tokens(id)))
            case ops.LoadOpen(after, count):
                return _call("load_open", (self._requests,), self._prefix, after or "-", count)
            case ops.Verify(ids):
                return _call("verify", (self._fence,), self._prefix, *ids)
            case ops.Acquire(holder, ttl_ms, floor):
                return _call("acquire", self._lease, holder, ttl_ms, floor)
            case ops.Renew(holder, epoch, ttl_ms):
                return _call("renew", self._lease, holder, ttl_ms, epoch)
            case ops.TakeOver(holder, expected, ttl_ms, floor):
                return _call("takeover", self._lease, holder, ttl_ms, expected, floor)
            case ops.Release(holder, epoch):
                return _call("release", self._lease, holder, 0, epoch)
            case ops.Announce(registry, name, incarnation, record, ttl_ms):
                prefix, index = self._registry(registry)
                return _call("announce", (prefix + name, index), index, name, incarnation, record, ttl_ms)
            case ops.Withdraw(registry, name, incarnation):
                prefix, index = self._registry(registry)
                return _call("withdraw", (prefix + name, index), index, name, incarnation)
            case ops.List(registry):
                prefix, index = self._registry(registry)
                return _call("list", (index,), prefix)

    @staticmethod
    def reply(op: ops.Op, raw: list[Any]) -> ops.Reply:
        """The answer in a script's raw reply.

        Raises:
            StoreError: the reply is none that the scripts give.
        """
        try:
            return _REPLIES[raw[0]](op, *raw[1:])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StoreError(
                "the store answered what no script of this version says",
                why=f"{type(op).__name__}: {str(raw)[:200]}",
                fix="check that nothing else writes to this namespace",
            ) from error


def _call(script: str, keys: tuple[str, ...], *arguments: Argument) -> tuple[Argument, ...]:
    return ("EVALSHA", _digests()[script], len(keys), *keys, *arguments)


def _stored(id: str, raw: list[Any] | None) -> ops.StoredRequest | None:
    if raw is None:
        return None
    state, payload, accepted, result, tokens = raw
    return ops.StoredRequest(
        id, cast(ops.State, state.decode()), payload, int(accepted) / 1000.0, tuple(tokens), result
    )


def _open(_: ops.Op, after: bytes, found: list[list[Any]]) -> ops.Reply:
    # An entry without its request cannot come from the scripts; a reader must get past it all the same.
    requests = (_stored(entry[0].decode(), entry[1] if len(entry) > 1 else None) for entry in found)
    return ops.Open(tuple(request for request in requests if request is not None), after.decode())


def _loaded(op: ops.Op, raw: list[Any] | None = None) -> ops.Reply:
    return ops.Loaded(_stored(cast(ops.Load, op).id, raw))


def _verified(op: ops.Op, found: list[list[Any]]) -> ops.Reply:
    ids = cast(ops.Verify, op).ids
    pairs = ((cast(ops.State, state.decode()) if state else None, count) for state, count in found)
    return ops.Verified(dict(zip(ids, pairs, strict=True)))


_REPLIES: dict[bytes, Callable[..., ops.Reply]] = {
    b"recorded": lambda _, upto: ops.Recorded(upto),
    b"accepted": lambda _: ops.Accepted(),
    b"exists": lambda _, state: ops.Exists(state.decode()),
    b"finished": lambda _: ops.Finished(),
    b"ended": lambda _, state: ops.Ended(state.decode()),
    b"gap": lambda _, length: ops.Gap(length),
    b"missing": lambda _: ops.Missing(),
    b"stale": lambda _, epoch, holder: ops.Stale(epoch, holder.decode()),
    b"loaded": _loaded,
    b"open": _open,
    b"verified": _verified,
    b"leased": lambda _, epoch, holder: ops.Leased(epoch, holder.decode()),
    b"held": lambda _, epoch, holder: ops.Held(epoch, holder.decode()),
    b"released": lambda _: ops.Released(),
    b"announced": lambda _: ops.Announced(),
    b"withdrawn": lambda _: ops.Withdrawn(),
    b"listed": lambda _, found: ops.Listed({name.decode(): record for name, record in found}),
}
