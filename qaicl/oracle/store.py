"""What the oracle knows, in a database: every record once, however often it is stored.

One batch is one transaction, so a process killed at any moment leaves whole batches only. Times are aware UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Engine, create_engine, delete, func, select
from sqlalchemy.exc import DataError, StatementError
from sqlalchemy.pool import StaticPool

from qaicl.errors import BadReplyError, OracleStoreError
from qaicl.oracle import database, tables
from qaicl.oracle.observations import (
    INTERVALS,
    Batch,
    Headline,
    HeadlineKind,
    Interval,
    Kind,
    NetworkStats,
    Observation,
    Quarantined,
    SourceHealth,
    Stored,
    Validator,
)
from qaicl.oracle.rows import (
    as_row,
    headline_as_row,
    newest_rows,
    quarantine,
    row_as_headline,
    row_as_observation,
    upsert,
)
from qaicl.oracle.transactions import Transactions
from qaicl.settings import OracleSettings, Paths

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("open", "high", "low", "close", "volume")


class Store(Transactions):
    """Reads and writes the oracle's records.

    Every method raises OracleStoreError where the database fails.
    """

    def __init__(self, engine: Engine, *, recorded: bool = False) -> None:
        super().__init__(engine)
        self.recorded = recorded
        """True for the records that ship with the project, see :mod:`qaicl.oracle.recorded`."""

    @classmethod
    def open(cls, settings: OracleSettings, paths: Paths, context: str) -> Store:
        """The store of a context, created or migrated where need be."""
        return cls(database.connect(database.database_url(settings, paths, context)))

    @classmethod
    def in_memory(cls, *, recorded: bool = False) -> Store:
        """An empty store that lives as long as this object."""
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        database.prepare_sqlite(engine)
        with engine.execution_options(writes=True).begin() as connection:
            tables.metadata.create_all(connection)
        return cls(engine, recorded=recorded)

    # --- writing ---------------------------------------------------------------------------------

    def add(self, batch: Batch, *, now: datetime) -> Stored:
        """Store a batch wholly or not at all, the source's success with it.

        A record that is known already changes nothing; a candle or figure that the source has corrected since is
        replaced.

        Returns:
            How many records were new or corrected.

        Raises:
            BadReplyError: the database has no room for what a record holds; it is the source's failure.
        """
        try:
            return self._add(batch, now)
        except OracleStoreError as error:
            cause = error.__cause__
            # A StatementError itself, not the database's own errors below it: a value that cannot be sent there.
            if isinstance(cause, DataError) or type(cause) is StatementError:
                raise BadReplyError(
                    f"{batch.source} sent something that cannot be stored", source=batch.source, why=str(cause.orig)
                ) from error
            raise

    def _add(self, batch: Batch, now: datetime) -> Stored:
        with self.writing() as connection:
            stored = Stored(
                observations=upsert(
                    connection, tables.observations, [as_row(o) for o in batch.observations], ("value",)
                ),
                candles=upsert(connection, tables.candles, [as_row(c) for c in batch.candles], COLUMNS),
                headlines=upsert(connection, tables.headlines, [headline_as_row(h) for h in batch.headlines], ()),
                network=upsert(connection, tables.network, [as_row(n) for n in batch.network], ("tick", "epoch")),
                rejected=len(batch.rejected),
            )
            upsert(connection, tables.gaps, [as_row(gap) for gap in batch.gaps], ())
            rows = [{**as_row(v), "stored_at": now} for v in batch.validators]
            upsert(connection, tables.validators, rows, ("etag", "last_modified", "stored_at"))
            for rejected in batch.rejected:
                quarantine(connection, batch.source, rejected, now)
        return stored

    def prune(self, before: datetime) -> int:
        """Forget observations, candles, headlines, quarantined replies from before a moment. Returns how many."""
        expired = (
            (tables.observations, tables.observations.c.observed_at),
            (tables.candles, tables.candles.c.closed_at),
            (tables.gaps, tables.gaps.c.closed_at),
            (tables.headlines, tables.headlines.c.published_at),
            (tables.network, tables.network.c.observed_at),
            (tables.quarantine, tables.quarantine.c.last_seen),
        )
        with self.writing() as connection:
            count = sum(connection.execute(delete(table).where(column < before)).rowcount for table, column in expired)
            day = before.date().isoformat()
            connection.execute(delete(tables.quotas).where(tables.quotas.c.period < day))
        return count

    # --- reading ---------------------------------------------------------------------------------

    def observations(
        self, metric: str, start: datetime, end: datetime, *, asset: str | None = None
    ) -> list[Observation]:
        """Observations of a metric with ``start <= observed_at < end``, oldest first, of one asset or all."""
        table = tables.observations
        query = select(table).where(table.c.metric == metric, table.c.observed_at >= start, table.c.observed_at < end)
        if asset is not None:
            query = query.where(table.c.asset == asset)
        with self.reading() as connection:
            return [
                row_as_observation(row) for row in connection.execute(query.order_by(table.c.observed_at)).mappings()
            ]

    def latest(self, metric: str, asset: str, *, until: datetime | None = None) -> list[Observation]:
        """Each source's newest observation of an asset's metric, up to and including ``until``.

        A source that others have left a hundred observations and a day behind is left out, so that years of history
        cost nothing.
        """
        t = tables.observations
        mine = [t.c.asset == asset, t.c.metric == metric]
        if until is not None:
            mine.append(t.c.observed_at <= until)
        with self.reading() as connection:
            return [row_as_observation(row) for row in newest_rows(connection, t, t.c.observed_at, mine)]

    def candles(
        self,
        asset: str,
        start: datetime,
        end: datetime,
        interval: Interval,
        *,
        source: str | None = None,
        without: Collection[str] = (),
    ) -> pd.DataFrame:
        """Finished bars with ``start < closed_at <= end``, of one source: mixing exchanges would mix their volumes.

        Args:
            source: an exchange; None takes the one with the most bars in that time. One that is more than two bars
                behind another gives way to it, if that has at least half as many.
            without: sources that are not taken while another one has bars; where ``source`` is None.

        Returns:
            Columns open, high, low, close, volume (float64), indexed by UTC close time (``closed_at``), ascending.
            ``attrs``: ``source``, ``quote``, ``interval``, ``missing`` (bars lacking between the first and the
            last), ``hashes`` (of the replies). Empty without data.
        """
        import pandas as pd

        table = tables.candles
        mine = [
            table.c.asset == asset,
            table.c.interval == interval,
            table.c.closed_at > start,
            table.c.closed_at <= end,
        ]
        with self.reading() as connection:
            if source is None:
                newest, count = func.max(table.c.closed_at), func.count()
                known = connection.execute(select(table.c.source, newest, count).where(*mine).group_by(table.c.source))
                kept = [(row[0], row[1], row[2]) for row in known]
                trusted = [one for one in kept if one[0] not in without]
                source = _best_kept(trusted or kept, 2 * INTERVALS[interval])
            query = select(table).where(*mine, table.c.source == source).order_by(table.c.closed_at)
            rows = connection.execute(query).mappings().all()
        index = pd.DatetimeIndex([row["closed_at"] for row in rows], name="closed_at", tz="UTC")
        frame = pd.DataFrame({c: [row[c] for row in rows] for c in COLUMNS}, index=index, dtype="float64")
        expected = int((index[-1] - index[0]) / INTERVALS[interval]) + 1 if rows else 0
        frame.attrs = {
            "source": source,
            "quote": rows[-1]["quote"] if rows else "",
            "interval": interval,
            "missing": expected - len(rows),
            "hashes": sorted({row["sha256"] for row in rows}),
            "recorded": any(row["recorded"] for row in rows),
        }
        return frame

    def last_closes(self, asset: str, interval: Interval, *, until: datetime) -> list[Observation]:
        """Each exchange's newest candle close up to ``until``, as price observations."""
        t = tables.candles
        with self.reading() as connection:
            mine = [t.c.asset == asset, t.c.interval == interval, t.c.closed_at <= until]
            rows = newest_rows(connection, t, t.c.closed_at, mine)
        return [
            Observation(
                source=row["source"],
                kind=Kind.price,
                asset=asset,
                metric="price",
                observed_at=row["closed_at"],
                fetched_at=row["fetched_at"],
                sha256=row["sha256"],
                value=row["close"],
                unit=row["quote"],
                recorded=row["recorded"],
            )
            for row in rows
        ]

    def headlines(
        self,
        start: datetime,
        end: datetime,
        *,
        asset: str | None = None,
        kind: HeadlineKind | None = None,
    ) -> list[Headline]:
        """Headlines with ``start <= published_at < end``, oldest first.

        Args:
            asset: only those that name this asset; None: all.
        """
        table = tables.headlines
        query = select(table).where(table.c.published_at >= start, table.c.published_at < end)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(table.c.published_at, table.c.key)).mappings()
            found = [row_as_headline(row) for row in rows]
        return [h for h in found if asset is None or asset in h.assets]

    def network(self, asset: str, start: datetime, end: datetime) -> list[NetworkStats]:
        """A network's figures with ``start <= observed_at < end``, oldest first."""
        table = tables.network
        mine = [table.c.asset == asset, table.c.observed_at >= start, table.c.observed_at < end]
        with self.reading() as connection:
            rows = connection.execute(select(table).where(*mine).order_by(table.c.observed_at)).mappings()
            return [NetworkStats(**row) for row in rows]

    def as_of(self, asset: str) -> datetime | None:
        """When the newest price, candle or network figure of an asset was observed; None: nothing is stored."""
        t = tables
        queries = (
            select(func.max(t.candles.c.closed_at)).where(t.candles.c.asset == asset),
            select(func.max(t.observations.c.observed_at)).where(
                t.observations.c.asset == asset, t.observations.c.metric == "price"
            ),
            select(func.max(t.network.c.observed_at)).where(t.network.c.asset == asset),
        )
        with self.reading() as connection:
            moments = [connection.execute(query).scalar() for query in queries]
        return max((moment for moment in moments if moment is not None), default=None)

    def assets(self) -> list[str]:
        """Every asset that candles, prices or network figures are stored of."""
        t = tables
        queries = (
            select(t.candles.c.asset).distinct(),
            select(t.observations.c.asset).where(t.observations.c.metric == "price").distinct(),
            select(t.network.c.asset).distinct(),
        )
        with self.reading() as connection:
            return sorted({str(name) for query in queries for name in connection.execute(query).scalars()})

    def missing(
        self, asset: str, interval: Interval, source: str, start: datetime, end: datetime
    ) -> list[tuple[datetime, datetime]]:
        """Runs of bars that are not stored and not known to be lacking at the exchange.

        Returns:
            (first, last) close times, both inclusive, oldest first; bars close at multiples of the interval.
        """
        step = INTERVALS[interval]
        with self.reading() as connection:
            known: set[datetime] = set()
            for table in (tables.candles, tables.gaps):
                query = select(table.c.closed_at).where(
                    table.c.asset == asset,
                    table.c.interval == interval,
                    table.c.source == source,
                    table.c.closed_at > start,
                    table.c.closed_at <= end,
                )
                known.update(connection.execute(query).scalars())
        runs: list[tuple[datetime, datetime]] = []
        bar = floor(start, step) + step
        while bar <= end:
            if bar not in known:
                if runs and runs[-1][1] == bar - step:
                    runs[-1] = (runs[-1][0], bar)
                else:
                    runs.append((bar, bar))
            bar += step
        return runs

    def validator(self, url: str) -> Validator | None:
        """What to send so that the source can answer 304."""
        table = tables.validators
        with self.reading() as connection:
            row = connection.execute(select(table).where(table.c.url == url)).mappings().one_or_none()
        if row is None:
            return None
        return Validator(url=row["url"], etag=row["etag"], last_modified=row["last_modified"])

    def quarantined(self) -> list[Quarantined]:
        """What could not be believed, newest first."""
        table = tables.quarantine
        query = select(table.c.source, table.c.reason, table.c.times, table.c.last_seen)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(table.c.last_seen.desc())).all()
        return [Quarantined(**row._mapping) for row in rows]

    # --- sources: health and quotas --------------------------------------------------------------

    def health(self) -> dict[str, SourceHealth]:
        """Every source's health, by name."""
        with self.reading() as connection:
            rows = connection.execute(select(tables.sources)).mappings()
            return {row["source"]: SourceHealth(**row) for row in rows}

    def set_health(self, health: SourceHealth) -> None:
        """Remember a source's health."""
        row = as_row(health)
        with self.writing() as connection:
            upsert(connection, tables.sources, [row], tuple(name for name in row if name != "source"))

    def take(self, source: str, period: str, limit: int | None) -> bool:
        """Count one call to a source in a period: a UTC day ``2026-01-31`` or minute ``2026-01-31T10:05``.

        Returns:
            False where ``limit`` calls were counted already; then nothing is counted.
        """
        table = tables.quotas
        mine = (table.c.source == source) & (table.c.period == period)
        with self.writing() as connection:
            upsert(connection, table, [{"source": source, "period": period, "calls": 0}], ())
            update = table.update().where(mine).values(calls=table.c.calls + 1)
            if limit is not None:
                update = update.where(table.c.calls < limit)
            return connection.execute(update).rowcount == 1

    def taken(self, source: str, period: str) -> int:
        """Calls counted in a period."""
        table = tables.quotas
        with self.reading() as connection:
            query = select(table.c.calls).where(table.c.source == source, table.c.period == period)
            return int(connection.execute(query).scalar() or 0)


def _best_kept(known: Iterable[tuple[str, datetime, int]], behind: timedelta) -> str:
    """Of (source, newest bar, bars) the source with most bars; empty where there is none.

    One that died must not hide what another still tells: a source too far behind the newest counts only where no other
    has at least half as many bars.
    """
    ranked = sorted(known, key=lambda one: (-one[2], one[0]))
    if not ranked:
        return ""
    latest = max(newest for _, newest, _ in ranked)
    living = [name for name, newest, count in ranked if latest - newest <= behind and 2 * count >= ranked[0][2]]
    return living[0] if living else ranked[0][0]


def floor(moment: datetime, step: timedelta) -> datetime:
    """The last multiple of ``step`` since the epoch, not after the moment."""
    seconds = int(step.total_seconds())
    return moment - timedelta(seconds=int(moment.timestamp()) % seconds, microseconds=moment.microsecond)
