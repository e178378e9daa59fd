"""One connection to the store: many operations in one round trip, and every way to fail told apart."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.connection import Connection
from redis.sentinel import MasterNotFoundError

from qaicl.errors import NotAuthorisedError, QaiclError, StoreError
from qaicl.store.address import Address
from qaicl.store.ops import Op, Reply
from qaicl.store.scripts import Argument, Scripts


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer: the operation may or may not have happened, and doing it again does no harm."""


LOST = Lost()

Outcome = Reply | Lost | StoreError


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of each operation; ``down`` says why the server is of no use any more, if it is not."""

    outcomes: list[Outcome]
    down: QaiclError | None = None


_FULL = "free disk space on the store's machine; it takes writes again by itself"
# The server's error codes after which no write can succeed for now, and what mends each.
_UNUSABLE: dict[str, tuple[str, str]] = {
    "READONLY": ("is not the master any more", "wait for the failover, or point store.url at the master or Sentinel"),
    "LOADING": ("is still loading its data", "wait until it has finished"),
    "MASTERDOWN": ("is a replica that has lost its master", "wait for the failover"),
    "CLUSTERDOWN": ("has no quorum", "start the missing servers"),
    "TRYAGAIN": ("is moving keys", "wait until it has finished"),
    "NOREPLICAS": ("has too few replicas", "start the missing replicas, or lower min-replicas-to-write"),
    "MISCONF": ("cannot write to its disk", _FULL),
    "OOM": ("has no memory left", "raise maxmemory, or shorten store.result_ttl"),
    "BUSY": ("is busy with a script", "wait, or run: SCRIPT KILL"),
}
_REFUSING = ("NOAUTH", "WRONGPASS", "NOPERM")


class Session:
    """A connection with its scripts loaded. Not thread-safe; use it as a context manager.

    Args:
        address: where the store is.
        scripts: the commands of a namespace.
    """

    def __init__(self, address: Address, scripts: Scripts) -> None:
        self._address = address
        self._scripts = scripts
        self._pool = address.pool()
        self._connection: Connection | None = None

    def __enter__(self) -> Session:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connect, to the present master where there is Sentinel, and make sure that writes succeed.

        Raises:
            StoreError: it does not answer, or cannot write.
            NotAuthorisedError: it refuses the user, the password or the user's rights.
        """
        self.close()
        try:
            connection = self._pool.get_connection()
            self._connection = connection
            for reply in self._ask(connection, [*self._scripts.loading(), self._scripts.probe]):
                if isinstance(reply, Exception):
                    raise reply
        except (exceptions.RedisError, OSError) as error:
            self.close()
            raise self._error(error) from error

    def close(self) -> None:
        """Close the connection; ``open`` makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(exceptions.RedisError, OSError):
                self._pool.release(connection)
        self._pool.disconnect()

    def alive(self) -> bool:
        """Is the connection still there, as far as can be seen without a word?"""
        if self._connection is None:
            return False
        try:
            # Nothing is owed to us between two calls: whatever can be read is the end of the connection.
            return not self._connection.can_read(0)
        except (exceptions.RedisError, OSError):
            return False

    def call(self, op: Op) -> Reply:
        """One operation.

        Raises:
            StoreError: it failed, or its outcome is not known.
            NotAuthorisedError: the user may not do this.
        """
        batch = self.run([op])
        outcome = batch.outcomes[0]
        if isinstance(outcome, StoreError):
            raise outcome
        if isinstance(outcome, Lost):
            raise batch.down or StoreError("the connection to the store is closed", fix="open it first")
        return outcome

    def run(self, operations: Sequence[Op]) -> Batch:
        """All operations in one round trip, in their order."""
        outcomes: list[Outcome] = [LOST] * len(operations)
        if self._connection is None:
            return Batch(outcomes, StoreError("the connection to the store is closed"))
        todo = list(range(len(operations)))
        commands = [self._scripts.command(op) for op in operations]
        down: QaiclError | None = None
        for attempt in (1, 2):
            forgotten: list[int] = []
            try:
                replies = self._ask(self._connection, [commands[index] for index in todo])
                for index, raw in zip(todo, replies, strict=False):
                    if isinstance(raw, exceptions.NoScriptError) and attempt == 1:
                        forgotten.append(index)
                    elif isinstance(raw, Exception):
                        error = self._error(raw)
                        if _code(raw) in _UNUSABLE or isinstance(error, NotAuthorisedError):
                            down = error
                        elif isinstance(error, StoreError):
                            outcomes[index] = error
                    else:
                        outcomes[index] = self._understand(operations[index], raw)
                if len(replies) < len(todo):
                    down = down or no_answer(self._address, "it closed the connection")
                if not forgotten or down:
                    break
                # The server was told to forget its scripts; all that it refused has not happened, so order is kept.
                for reply in self._ask(self._connection, self._scripts.loading()):
                    if isinstance(reply, Exception):
                        raise reply
                todo = forgotten
            except (exceptions.RedisError, OSError) as problem:
                down = self._error(problem)
                break
        return Batch(outcomes, down)

    def _understand(self, op: Op, raw: Any) -> Outcome:
        try:
            return self._scripts.reply(op, raw)
        except StoreError as error:
            return error

    @staticmethod
    def _ask(connection: Connection, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Raw replies, errors among them as values. Fewer than commands where the connection ended in between.

        Raises:
            RedisError, OSError: not even one reply came.
        """
        replies: list[Any] = []
        try:
            packed = connection.pack_commands(commands)  # type: ignore[no-untyped-call]
            connection.send_packed_command(packed, check_health=False)  # type: ignore[no-untyped-call]
            for _ in commands:
                try:
                    replies.append(connection.read_response(disable_decoding=True))
                except (exceptions.ResponseError, exceptions.BusyLoadingError) as error:
                    replies.append(error)
        except (exceptions.RedisError, OSError):
            if not replies:
                raise
        return replies

    def _error(self, error: Exception) -> QaiclError:
        if isinstance(error, MasterNotFoundError):
            return self._no_master(error)
        code = _code(error)
        why = str(error)
        if code in _REFUSING or isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
            return NotAuthorisedError(
                f"the store at {self._address} refuses us",
                why=why,
                fix="check store.username and store.password_file, and the user's rights on the server",
            )
        if code in _UNUSABLE:
            what, fix = _UNUSABLE[code]
            return StoreError(f"the store at {self._address} {what}", why=why, fix=fix)
        if isinstance(error, exceptions.ResponseError):
            return StoreError(f"the store at {self._address} refused", why=why, fix="see the server's log")
        return no_answer(self._address, why)

    def _no_master(self, error: MasterNotFoundError) -> QaiclError:
        # The driver's text holds its whole connection pool, and says of each Sentinel that refused us this word.
        why = str(error).partition(" : ")[0]
        if "AuthenticationError" in str(error):
            return NotAuthorisedError(
                f"the Sentinels of {self._address} refuse us", why=why, fix="check store.sentinel_password_file"
            )
        return no_answer(self._address, why)


def no_answer(address: Address, why: str) -> StoreError:
    """The error of a store that cannot be reached."""
    return StoreError(
        f"the store at {address} does not answer",
        why=why,
        fix="check that it runs and that store.url is right; qaicl doctor tells more",
    )


def _code(error: Exception) -> str:
    """The first word of the server's error; the driver keeps it apart for the ones that it knows."""
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]
