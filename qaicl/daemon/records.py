"""Between the brain's words and the store's: what is written as bytes, and what comes back."""

from __future__ import annotations

import msgspec

from qaicl.cluster import actions as act
from qaicl.cluster import events as ev
from qaicl.store import ops
from qaicl.wire.messages import Outcome, RequestSpec, Token


class Records:
    """Encodes requests, tokens and outcomes."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._spec = msgspec.msgpack.Decoder(RequestSpec)
        self._token = msgspec.msgpack.Decoder(Token)
        self._outcome = msgspec.msgpack.Decoder(Outcome)

    def operation(self, action: act.Action, epoch: int) -> ops.Op:
        """The store operation of a brain's action."""
        match action:
            case act.StoreTokens(request, first, tokens):
                return ops.RecordTokens(request, epoch, first, self._tokens(tokens))
            case act.StoreAccept(spec):
                return ops.Accept(spec.id, self._encode(spec), epoch)
            case act.StoreFinish(outcome, tokens):
                return ops.Finish(outcome.id, epoch, _end(outcome), self._encode(outcome), tokens)
            case act.StoreReassert(spec, tokens, None):
                return ops.Reaccept(spec.id, epoch, self._encode(spec), self._tokens(tokens))
            case act.StoreReassert(spec, tokens, outcome):
                assert outcome is not None
                encoded = self._encode(outcome)
                return ops.Reaccept(spec.id, epoch, self._encode(spec), self._tokens(tokens), _end(outcome), encoded)
            case act.StoreLoad(request):
                return ops.Load(request)
            case act.StoreLoadOpen():
                return ops.LoadOpen()
        raise TypeError(f"not a store action: {action}")

    def _tokens(self, tokens: tuple[Token, ...]) -> tuple[bytes, ...]:
        return tuple(map(self._encode, tokens))

    def event(self, op: ops.Op, reply: ops.Reply) -> ev.Event | None:
        """What the brain should know of an answer; None where it need not."""
        match op, reply:
            case ops.Accept(id), ops.Accepted():
                return ev.StoreAccepted(id)
            case ops.Accept(id), ops.Exists():
                return ev.StoreAccepted(id, existed=True)
            case ((ops.RecordTokens(id) | ops.Reaccept(id)), ops.Recorded(upto)):
                return ev.StoreRecorded(id, upto)
            case ((ops.Finish(id) | ops.Reaccept(id)), (ops.Finished() | ops.Ended())):
                return ev.StoreFinished(id)
            case ((ops.RecordTokens(id) | ops.Finish(id)), (ops.Missing() | ops.Gap())):
                return ev.StoreMissing(id)
            case ops.Load(id), ops.Loaded(stored):
                return ev.StoreLoaded(id, None if stored is None else self.request(stored))
        return None

    def request(self, stored: ops.StoredRequest) -> ev.StoredRequest:
        """A request as the brain knows it."""
        return ev.StoredRequest(
            self._spec.decode(stored.payload),
            tuple(map(self._token.decode, stored.tokens)),
            self._outcome.decode(stored.result) if stored.result else None,
        )


def _end(outcome: Outcome) -> ops.End:
    return "failed" if outcome.error else "done"
