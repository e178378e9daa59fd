"""Records as rows of the database and back, and the insert that knows what is there already."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Table, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from qaicl.oracle import tables
from qaicl.oracle.observations import Headline, Kind, Observation, Rejected

LOOK_BACK = 100
"""Records among which each source's newest is looked for: the last day, with four sources an hour."""
DAY = timedelta(days=1)
KEPT_BODY = 16_384
"""Characters of a rejected reply that are kept."""


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]], changed: tuple[str, ...]) -> int:
    """Insert rows; where the key exists, replace the row if a column of ``changed`` differs.

    Returns:
        How many rows were inserted or replaced.
    """
    if not rows:
        return 0
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    key = [column.name for column in table.primary_key.columns]
    statement: Any = dialect.insert(table)
    if changed:
        others = [column.name for column in table.columns if column.name not in key]
        statement = statement.on_conflict_do_update(
            index_elements=key,
            set_={name: statement.excluded[name] for name in others},
            where=or_(*(table.c[name].is_distinct_from(statement.excluded[name]) for name in changed)),
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    unique = {tuple(row[name] for name in key): row for row in rows}
    # Not rowcount: psycopg does not tell it for many rows.
    return len(connection.execute(statement.returning(table.c[key[0]]), list(unique.values())).all())


def newest_rows(connection: Connection, table: Table, time: Any, mine: list[Any]) -> list[RowMapping]:
    """Each source's newest row of ``mine`` by the column ``time``: of the last ``LOOK_BACK``, or of the last day.

    One source that sends hundreds of rows must not push the others out.
    """
    rows = list(connection.execute(select(table).where(*mine).order_by(time.desc()).limit(LOOK_BACK)).mappings())
    if len(rows) == LOOK_BACK and rows[0][time.name] - rows[-1][time.name] < DAY:
        recent = [*mine, time >= rows[0][time.name] - DAY]
        last = select(table.c.source, func.max(time).label("last")).where(*recent).group_by(table.c.source).subquery()
        its_own = (table.c.source == last.c.source) & (time == last.c.last)
        rows += connection.execute(select(table).join(last, its_own).where(*mine)).mappings().all()
    newest: dict[str, RowMapping] = {}
    for row in rows:
        newest.setdefault(row["source"], row)
    return [newest[source] for source in sorted(newest)]


def as_row(record: msgspec.Struct) -> dict[str, Any]:
    """A record's fields by column, where both have the same names."""
    return msgspec.structs.asdict(record)


def headline_as_row(headline: Headline) -> dict[str, Any]:
    """A headline by column; its assets are one text."""
    return {**as_row(headline), "key": headline.key, "assets": " ".join(headline.assets)}


def row_as_headline(row: RowMapping) -> Headline:
    """The headline of :func:`headline_as_row`."""
    fields = {name: row[name] for name in Headline.__struct_fields__}
    return Headline(**{**fields, "assets": tuple(fields["assets"].split())})


def row_as_observation(row: RowMapping) -> Observation:
    """The observation of :func:`as_row`."""
    return Observation(**{**row, "kind": Kind(row["kind"])})


def quarantine(connection: Connection, source: str, rejected: Rejected, now: datetime) -> None:
    """Remember what could not be believed; the same again is counted."""
    table = tables.quarantine
    key = {"source": source, "sha256": rejected.sha256, "reason": rejected.reason}
    row = {**key, "body": rejected.body[:KEPT_BODY], "first_seen": now, "last_seen": now, "times": 0}
    upsert(connection, table, [row], ())
    mine = [table.c[name] == value for name, value in key.items()]
    connection.execute(table.update().where(*mine).values(times=table.c.times + 1, last_seen=now))
