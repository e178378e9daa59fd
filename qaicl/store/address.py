"""Where the store is and who asks: ``redis://``, ``rediss://``, ``unix://`` and ``redis+sentinel://h1:p,h2:p/service``.

Options of the driver may stand in the query, such as ``rediss://host?ssl_ca_certs=/etc/qaicl/ca.pem``. A password never
stands in an address, because addresses are printed: it comes from a file.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from qaicl.errors import NotAuthorisedError, UsageError
from qaicl.settings import StoreSettings

SENTINEL_PORT = 26379
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""A server that is silent for longer counts as down."""

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; ``str`` of it is safe to print."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    query: str = ""
    sentinel_password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.url

    @classmethod
    def parse(cls, settings: StoreSettings) -> Address:
        """The address in the settings, with the password from its file.

        Raises:
            UsageError: the address is none, or holds a password.
            NotAuthorisedError: the password file is missing or readable by others.
        """
        try:
            parts = urlsplit(settings.url)
            bad = parts.scheme not in _SCHEMES or not (parts.netloc or (parts.scheme == "unix" and parts.path))
            user, password = parts.username or "", parts.password
            sentinels = _sentinels(parts.netloc.rpartition("@")[2]) if parts.scheme.endswith("+sentinel") else ()
        except ValueError as error:
            raise _not_an_address(settings.url, str(error)) from error
        if password is not None:
            raise UsageError(
                "the store's address holds a password",
                why="addresses are printed and logged",
                fix="put it into a file with mode 0600 and set store.password_file",
            )
        if bad:
            raise _not_an_address(settings.url, "it must start with one of " + ", ".join(f"{s}://" for s in _SCHEMES))
        return cls(
            settings.url,
            settings.username or user,
            _password(settings.password_file, "store.password_file"),
            sentinels,
            parts.path.strip("/") or settings.sentinel_service,
            parts.query,
            _password(settings.sentinel_password_file, "store.sentinel_password_file"),
        )

    def pool(self) -> ConnectionPool:
        """The driver's connection pool. With Sentinel, each new connection asks who is master.

        Raises:
            UsageError: the driver does not know an option of the address.
        """
        timing: dict[str, Any] = {
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            # Retrying is the caller's: a write that was cut off must not be sent twice by the driver.
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        login = {"username": self.username or None, "password": self.password or None}
        try:
            pool = self._pool(timing, login)
            # The driver looks at its options only when it makes a connection; making one does not connect yet.
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, ValueError) as error:
            raise _not_an_address(self.url, str(error)) from error
        return pool

    def _pool(self, timing: dict[str, Any], login: dict[str, Any]) -> ConnectionPool:
        if not self.sentinels:
            return ConnectionPool.from_url(self.url, **timing, **login)
        # The driver reads the options of plain addresses only, so it is given one.
        options: dict[str, Any] = {**parse_url(f"redis://?{self.query}"), **timing}  # type: ignore[no-untyped-call]
        if self.url.startswith("rediss"):
            options["ssl"] = True
        asking = {**options, "password": self.sentinel_password or None}
        sentinel = Sentinel(list(self.sentinels), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
        return SentinelConnectionPool(self.service, sentinel, **options, **login)  # type: ignore[no-untyped-call]


def _sentinels(hosts: str) -> tuple[tuple[str, int], ...]:
    found = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        if not parts.hostname:
            raise ValueError(f"'{host}' is not host:port")
        found.append((parts.hostname, parts.port or SENTINEL_PORT))
    return tuple(found)


def _not_an_address(url: str, why: str) -> UsageError:
    return UsageError(
        f"'{url}' is not the address of a store", why=why, fix="set store.url, for example to redis://10.0.0.10:6379"
    )


def _password(file: str, setting: str) -> str:
    """The password in a file; empty where the setting names none."""
    if not file:
        return ""
    path = Path(file).expanduser()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise NotAuthorisedError(
                f"the password file {path} can be read by others",
                why=f"its mode is {mode:04o}",
                fix=f"run: chmod 600 {path}",
            )
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotAuthorisedError(
            f"cannot read the password file {path}",
            why=getattr(error, "strerror", None) or str(error),
            fix=f"check {setting}",
        ) from error
    if not password:
        raise NotAuthorisedError(f"the password file {path} is empty", fix="put the password into it")
    return password
