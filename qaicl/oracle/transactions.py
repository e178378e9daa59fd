"""An open database: its transactions and its clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Self

from sqlalchemy import URL, Connection, Engine, func, select

from qaicl.oracle.database import translated


class Transactions:
    """Hands out connections inside transactions.

    Every method raises OracleStoreError where the database fails.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writes=True)

    @property
    def url(self) -> URL:
        """Where the database is; print it only with its password hidden."""
        return self._engine.url

    def clock(self) -> datetime:
        """The present by the database server's clock, which all its users share; with SQLite by this machine's."""
        if self.url.get_backend_name() == "sqlite":
            return datetime.now(UTC)
        with self.reading() as connection:
            present: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return present.astimezone(UTC)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection inside a read transaction."""
        with translated(self.url), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection inside a write transaction; committed at the end, rolled back on any error."""
        with translated(self.url), self._writer.begin() as connection:
            yield connection
