"""The store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import inspect, make_url, text

from qaicl.errors import BadReplyError, NothingStoredError, OracleStoreError, SettingsError
from qaicl.oracle import database, tables
from qaicl.oracle.observations import (
    MARKET,
    Batch,
    Candle,
    Gap,
    Headline,
    Kind,
    NetworkStats,
    Observation,
    Rejected,
    SourceHealth,
    State,
    Stored,
    Validator,
)
from qaicl.oracle.records import ForecastRecord, Records
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.settings import OracleSettings, Paths

NOW = datetime(2026, 1, 10, 12, 30, 15, 250, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOP = NOW.replace(minute=0, second=0, microsecond=0)


def observation(source: str = "a", value: float = 1.0, at: datetime = NOW, metric: str = "price") -> Observation:
    return Observation(
        source=source,
        kind=Kind.price,
        asset="qubic",
        metric=metric,
        observed_at=at,
        fetched_at=NOW,
        sha256="f" * 64,
        value=value,
        unit="USD",
    )


def candle(back: int, source: str = "mexc", close: float = 1.0) -> Candle:
    return Candle(
        source=source,
        asset="qubic",
        interval="1h",
        closed_at=TOP - back * HOUR,
        open=1.0,
        high=2.0,
        low=0.5,
        close=close,
        volume=10.0,
        quote="USDT",
        fetched_at=NOW,
        sha256="e" * 64,
    )


HEADLINE = Headline(
    source="rss:paper",
    outlet="Paper",
    title="Qubic rises",
    published_at=NOW - HOUR,
    fetched_at=NOW,
    sha256="d" * 64,
    assets=("qubic", "bitcoin"),
)
NETWORK = NetworkStats(
    source="qubic",
    asset="qubic",
    observed_at=NOW,
    fetched_at=NOW,
    sha256="c" * 64,
    epoch=119,
    tick=15_102_892,
    burned=9_007_199_254_740_993,
    tick_quality=98.6,
)
EVERYTHING = Batch(
    source="a",
    observations=(observation(), observation("b", 1.003)),
    candles=tuple(candle(back) for back in range(5)),
    headlines=(HEADLINE,),
    network=(NETWORK,),
)


def test_what_is_stored_comes_back_equal(store: Store) -> None:
    assert store.add(EVERYTHING, now=NOW) == Stored(observations=2, candles=5, headlines=1, network=1)
    assert store.observations("price", NOW - HOUR, NOW + HOUR) == list(EVERYTHING.observations)
    assert store.headlines(NOW - 2 * HOUR, NOW) == [HEADLINE]
    assert store.network("qubic", NOW - HOUR, NOW + HOUR) == [NETWORK]
    frame = store.candles("qubic", TOP - 10 * HOUR, TOP, "1h")
    assert list(frame.index) == [c.closed_at for c in reversed(EVERYTHING.candles)]
    assert frame.index.tz is UTC or str(frame.index.tz) == "UTC"
    assert frame.attrs["source"] == "mexc"
    assert frame.attrs["quote"] == "USDT"


def test_storing_twice_changes_nothing(store: Store) -> None:
    store.add(EVERYTHING, now=NOW)
    assert store.add(EVERYTHING, now=NOW) == Stored()
    assert len(store.observations("price", NOW - HOUR, NOW + HOUR)) == 2


def test_a_corrected_bar_replaces_the_old_one(store: Store) -> None:
    store.add(Batch(source="mexc", candles=(candle(0),)), now=NOW)
    assert store.add(Batch(source="mexc", candles=(candle(0, close=1.5),)), now=NOW).candles == 1
    assert store.candles("qubic", TOP - HOUR, TOP, "1h")["close"].tolist() == [1.5]


def test_a_batch_is_stored_wholly_or_not_at_all(store: Store) -> None:
    broken = msgspec.structs.replace(NETWORK, tick="not a number")  # type: ignore[arg-type]
    with pytest.raises(BadReplyError if "postgresql" in str(store.url) else Exception):
        store.add(
            Batch(
                source="a",
                observations=(observation(),),
                network=(broken, msgspec.structs.replace(NETWORK, asset=None)),  # type: ignore[arg-type]
            ),
            now=NOW,
        )
    assert store.observations("price", NOW - HOUR, NOW + HOUR) == []


def test_candles_come_from_one_exchange_the_one_with_most_bars(store: Store) -> None:
    few = tuple(candle(back, "gate") for back in range(3))
    store.add(Batch(source="x", candles=(*EVERYTHING.candles, *few)), now=NOW)
    assert store.candles("qubic", TOP - 10 * HOUR, TOP, "1h").attrs["source"] == "mexc"
    assert len(store.candles("qubic", TOP - 10 * HOUR, TOP, "1h", source="gate")) == 3
    assert store.candles("nobody", TOP - 10 * HOUR, TOP, "1h").empty


def test_an_exchange_that_died_does_not_hide_what_another_still_tells(store: Store) -> None:
    died = tuple(candle(back, "mexc") for back in range(4, 40))
    living = tuple(candle(back, "gate") for back in range(30))
    store.add(Batch(source="x", candles=(*died, *living)), now=NOW)
    assert store.candles("qubic", TOP - 50 * HOUR, TOP, "1h").attrs["source"] == "gate"
    # At the same moment's end, and against one with far fewer bars, the one with most stays.
    assert store.candles("qubic", TOP - 50 * HOUR, TOP - 4 * HOUR, "1h").attrs["source"] == "mexc"
    new = tuple(candle(back, "new") for back in range(5))
    store.add(Batch(source="x", candles=new), now=NOW)
    assert store.candles("qubic", TOP - 50 * HOUR, TOP, "1h").attrs["source"] == "gate"


def test_missing_bars_are_told_as_runs_without_what_the_exchange_lacks(store: Store) -> None:
    bars = tuple(candle(back) for back in (0, 3, 4, 6))
    gap = Gap(source="mexc", asset="qubic", interval="1h", closed_at=TOP - 5 * HOUR)
    store.add(Batch(source="mexc", candles=bars, gaps=(gap,)), now=NOW)
    assert store.missing("qubic", "1h", "mexc", TOP - 8 * HOUR, TOP) == [
        (TOP - 7 * HOUR, TOP - 7 * HOUR),
        (TOP - 2 * HOUR, TOP - HOUR),
    ]


def test_a_quota_holds_across_stores_and_is_counted_once_a_call(store: Store, database_url: str) -> None:
    assert [store.take("newsapi", "2026-01-10", 2) for _ in range(3)] == [True, True, False]
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    with Store(database.connect(url)) as restarted:
        assert not restarted.take("newsapi", "2026-01-10", 2)
        assert restarted.take("newsapi", "2026-01-11", 2)
        assert restarted.taken("newsapi", "2026-01-10") == 2


def test_quarantine_counts_what_comes_again(store: Store) -> None:
    bad = Batch(source="a", rejected=(Rejected(reason="price is -1", body="{}", sha256="b" * 64),))
    store.add(bad, now=NOW - HOUR)
    store.add(bad, now=NOW)
    (entry,) = store.quarantined()
    assert (entry.source, entry.reason, entry.times, entry.last_seen) == ("a", "price is -1", 2, NOW)


def test_health_and_validators_are_remembered(store: Store) -> None:
    health = SourceHealth(source="a", last_failure=NOW, reason="slow", failures=3, blocked_until=NOW + HOUR)
    store.set_health(SourceHealth(source="a", last_success=NOW))
    store.set_health(health)
    assert store.health() == {"a": health}
    validator = Validator(url="https://x.example/feed", etag='"1"', last_modified="")
    store.add(Batch(source="a", validators=(validator,)), now=NOW)
    assert store.validator(validator.url) == validator
    assert store.validator("https://other.example") is None


def test_retention_forgets_only_what_is_older(store: Store) -> None:
    old = tuple(candle(back) for back in range(100, 103))
    store.add(Batch(source="mexc", candles=old), now=NOW)
    store.add(EVERYTHING, now=NOW)
    assert store.prune(NOW - timedelta(days=2)) == 3
    assert store.prune(NOW - timedelta(days=2)) == 0
    assert len(store.candles("qubic", NOW - timedelta(days=30), NOW, "1h")) == 5


def test_forecasts_are_written_before_and_resolved_once(store: Store) -> None:
    records = Records(store)
    made = ForecastRecord(
        asset="qubic",
        model="m 1",
        made_at=NOW - HOUR,
        target_at=NOW,
        written_at=NOW - HOUR / 2,
        direction="up",
        probability=0.6,
        price=1.0,
        source="mexc",
    )
    assert records.save_forecasts([made]) == 1
    assert records.save_forecasts([msgspec.structs.replace(made, probability=0.99)]) == 0
    assert records.open_forecasts(NOW - HOUR, NOW - timedelta(minutes=1)) == []
    assert records.open_forecasts(NOW + HOUR, NOW + 2 * HOUR) == []
    (open_one,) = records.open_forecasts(NOW - HOUR, NOW)
    records.resolve(open_one, 1.2, NOW)
    records.resolve(open_one, 9.9, NOW)
    (done,) = records.made("qubic", "m 1", NOW - 2 * HOUR, NOW)
    assert (done.probability, done.outcome_price) == (0.6, 1.2)
    assert records.made("qubic", "m 1", NOW - 2 * HOUR, NOW - HOUR) == [], "not written down by then"


def test_a_snapshot_gathers_everything_and_flags_what_lacks(store: Store) -> None:
    store.add(EVERYTHING, now=NOW)
    snapshot = Snapshot.load(store, "qubic", NOW)
    assert snapshot.price.state is State.fresh
    assert snapshot.price.sources == ("a", "b", "mexc")
    assert len(snapshot.candles) == 5
    assert snapshot.headlines == (HEADLINE,)
    assert snapshot.network == (NETWORK,)
    assert snapshot.state is State.degraded
    assert [flag.subject for flag in snapshot.flags] == ["fear_greed"]


def test_bars_of_an_exchange_whose_price_is_doubted_give_way_or_are_flagged(store: Store) -> None:
    lying = tuple(candle(back, "gate", close=1.9 if back == 0 else 1.0) for back in range(30))
    others = (observation("a"), observation("b", 1.003))
    store.add(Batch(source="x", candles=lying, observations=others), now=NOW)
    alone = Snapshot.load(store, "qubic", NOW)
    assert alone.price.value == pytest.approx(1.0015)
    assert alone.candles.attrs["source"] == "gate"
    assert [flag.reason for flag in alone.flags if flag.subject == "candles"] == [
        "they are of gate, whose price is too far from the others"
    ]
    store.add(Batch(source="x", candles=tuple(candle(back) for back in range(26))), now=NOW)
    both = Snapshot.load(store, "qubic", NOW)
    assert both.candles.attrs["source"] == "mexc"
    assert both.change_24h.value == pytest.approx(0.0)
    assert not [flag for flag in both.flags if flag.subject == "candles"]
    # An exchange that is only late is not doubted.
    later = Snapshot.load(store, "qubic", NOW + 3 * HOUR)
    assert later.price.state is State.stale
    assert later.candles.attrs["source"] == "gate"


def test_a_source_that_sends_hundreds_of_values_pushes_no_other_out(store: Store) -> None:
    flood = tuple(observation("flood", 9.0, NOW - timedelta(seconds=second)) for second in range(300))
    others = tuple(observation(name, 1.0, NOW - timedelta(minutes=10)) for name in ("a", "b", "c"))
    old = tuple(observation(name, 5.0, NOW - timedelta(minutes=50)) for name in ("a", "b"))
    store.add(Batch(source="x", observations=(*flood, *others, *old)), now=NOW)
    assert [one.source for one in store.latest("price", "qubic", until=NOW)] == ["a", "b", "c", "flood"]
    assert {one.value for one in store.latest("price", "qubic", until=NOW)} == {1.0, 9.0}
    price = Snapshot.load(store, "qubic", NOW).price
    assert (price.value, price.sources) == (1.0, ("a", "b", "c"))


def test_a_snapshot_never_looks_past_its_moment(store: Store) -> None:
    store.add(EVERYTHING, now=NOW)
    later = Batch(
        source="a",
        observations=(observation(value=5.0, at=NOW + HOUR),),
        candles=(candle(-1, close=5.0),),
        headlines=(msgspec.structs.replace(HEADLINE, title="Later", published_at=NOW + HOUR),),
        network=(msgspec.structs.replace(NETWORK, observed_at=NOW + HOUR, tick=1),),
    )
    before = Snapshot.load(store, "qubic", NOW)
    store.add(later, now=NOW)
    after = Snapshot.load(store, "qubic", NOW)
    assert after.price == before.price
    assert after.candles.equals(before.candles)
    assert (after.headlines, after.network) == (before.headlines, before.network)


def test_days_later_the_figures_are_stale_with_their_age(store: Store) -> None:
    store.add(EVERYTHING, now=NOW)
    snapshot = Snapshot.load(store, "qubic", NOW + timedelta(days=3))
    assert snapshot.state is State.stale
    assert snapshot.price.value is not None
    assert snapshot.price.age is not None
    assert snapshot.price.age >= 3 * 86_400
    assert {"price", "candles", "headlines", "network"} <= {f.subject for f in snapshot.flags if f.state is State.stale}


def test_a_failing_source_is_flagged_while_it_is_asked(store: Store) -> None:
    store.add(EVERYTHING, now=NOW)
    store.set_health(SourceHealth(source="mexc", last_failure=NOW - HOUR, reason="slow", failures=2))
    store.set_health(SourceHealth(source="removed", last_failure=NOW - timedelta(days=9), reason="gone", failures=8))
    flags = {flag.subject: flag.reason for flag in Snapshot.load(store, "qubic", NOW).flags}
    assert flags["source:mexc"] == "failed 2 times in a row: slow"
    assert "source:removed" not in flags


def test_nothing_stored_is_a_clear_error(store: Store) -> None:
    mood = msgspec.structs.replace(observation(metric="fear_greed"), asset=MARKET)
    store.add(Batch(source="a", observations=(mood,)), now=NOW)
    with pytest.raises(NothingStoredError, match="nothing is stored of qubic"):
        Snapshot.load(store, "qubic", NOW)


def test_migrations_make_the_tables_that_the_code_names(store: Store) -> None:
    with store.reading() as connection:
        found = inspect(connection)
        for table in tables.metadata.sorted_tables:
            columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert columns == {column.name: column.nullable for column in table.columns}, table.name
            assert set(found.get_pk_constraint(table.name)["constrained_columns"]) == set(
                table.primary_key.columns.keys()
            )
            assert {index["name"] for index in found.get_indexes(table.name)} == {index.name for index in table.indexes}


def test_a_newer_schema_is_refused(store: Store, database_url: str) -> None:
    with store.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    url = make_url(database_url)
    url = url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg")
    with pytest.raises(OracleStoreError, match="schema 9999"):
        database.connect(url)


def _open(url: str) -> None:
    parsed = make_url(url)
    parsed = parsed if parsed.get_backend_name() == "sqlite" else parsed.set(drivername="postgresql+psycopg")
    Store(database.connect(parsed)).close()


def test_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_open, args=(empty_database_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]


# --- a database that fails -----------------------------------------------------------------------


def opened(tmp_path: Path, **changes: str) -> Store:
    return Store.open(OracleSettings(**changes), Paths(tmp_path, tmp_path, tmp_path), "default")  # type: ignore[arg-type]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "oracle" / "default.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"this is no database, and longer than a header of one hundred bytes" * 10)
    with pytest.raises(OracleStoreError, match="not a database") as caught:
        opened(tmp_path)
    assert "move the file away" in caught.value.fix


def test_a_full_database_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add(EVERYTHING, now=NOW)
        with store.reading() as connection:
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        flood = Batch(source="a", candles=tuple(candle(back) for back in range(10, 2000)))
        with pytest.raises(OracleStoreError, match="full") as caught:
            store.add(flood, now=NOW)
        assert "free disk space" in caught.value.fix
        assert len(store.candles("qubic", TOP - timedelta(days=200), TOP, "1h")) == 5


def test_a_database_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(OracleStoreError) as caught:
        opened(tmp_path, database_url=f"postgresql://qaicl@/oracle?host={tmp_path}")
    assert caught.value.exit_code == 4
    assert "PostgreSQL runs" in caught.value.fix


def test_a_password_in_the_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        opened(tmp_path, database_url="postgresql://qaicl:hunter2@db/oracle")
    assert "hunter2" not in str(caught.value)


def test_a_password_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    secret.chmod(0o640)
    settings = {"database_url": "postgresql://qaicl@db/oracle", "database_password_file": str(secret)}
    with pytest.raises(SettingsError, match="others may read"):
        opened(tmp_path, **settings)
    secret.chmod(0o600)
    paths = Paths(tmp_path, tmp_path, tmp_path)
    url = database.database_url(OracleSettings(**settings), paths, "default")  # type: ignore[arg-type]
    assert url.password == "hunter2"
    assert "hunter2" not in url.render_as_string(hide_password=True)


@pytest.mark.parametrize("url", ["mysql://db/oracle", "nonsense"])
def test_another_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError):
        opened(tmp_path, database_url=url)


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        path = tmp_path / "oracle" / "default.sqlite"
        reader = sqlite3.connect(path)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM candles").fetchone()
        assert store.add(EVERYTHING, now=NOW).candles == 5
        reader.close()
