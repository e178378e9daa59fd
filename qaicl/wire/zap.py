"""Who is let in: the ZeroMQ authentication handler (ZAP, RFC 27) of a context.

Every server socket names a domain; a domain lets certain roles in. The peer's key is asked for once, in the handshake:
removing a key from the allow-list keeps it from coming back and does not cut a connection that stands.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Mapping

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from qaicl.wire.keys import AllowList

LINES_A_SECOND = 10

log = logging.getLogger(__name__)


class Gate:
    """Answers ZAP questions of one context in a thread of its own; use as a context manager.

    Args:
        context: the context whose server sockets it guards. One gate a context.
        allowed: the keys by role.
        domains: which roles each domain lets in; an unknown domain lets nobody in.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], allowed: AllowList, domains: Mapping[str, frozenset[str]]
    ) -> None:
        self._allowed = allowed
        self._domains = dict(domains)
        self.refused: Counter[str] = Counter()
        """How often each key (Z85) was refused; the most frequent thousand."""
        self.refusals = 0
        self._logged: deque[float] = deque(maxlen=LINES_A_SECOND)
        self._authenticator = ThreadAuthenticator(context)
        for domain in self._domains:
            self._authenticator.configure_curve_callback(domain, self)

    def __enter__(self) -> Gate:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to answer. Until then, and without it, no server socket of the context lets anybody in."""
        self._authenticator.start()

    def stop(self) -> None:
        """Stop answering: nobody new is let in."""
        self._authenticator.stop()

    def callback(self, domain: str, key: bytes) -> bool:
        """The question of the authenticator: may this key (Z85) enter this domain?"""
        public_key = key.decode("ascii")
        if any(self._allowed.allows(role, public_key) for role in self._domains.get(domain, ())):
            return True
        self.refusals += 1
        # A peer can make keys without end: keep the count of the loudest only.
        if len(self.refused) >= 2000:
            self.refused = Counter(dict(self.refused.most_common(1000)))
        self.refused[public_key] += 1
        # Ten lines a second at most: whoever knocks without end must not fill the disk with it.
        now = time.monotonic()
        if len(self._logged) < LINES_A_SECOND or now - self._logged[0] >= 1.0:
            self._logged.append(now)
            log.warning("refused a peer: key %s is not allowed in domain %s", public_key, domain)
        return False


def peer_key(frame: zmq.Frame) -> str:
    """The public key (Z85) of the peer that sent a frame, as proven in its handshake.

    Raises:
        zmq.ZMQError: the socket has no authentication.
    """
    return str(frame.get("User-Id"))
