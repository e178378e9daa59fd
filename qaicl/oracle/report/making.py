"""A report from the settings alone: opens the store, loads the snapshot, builds the report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qaicl.errors import UsageError
from qaicl.oracle.opening import known_asset, open_store
from qaicl.oracle.report.builder import Timings, build_report
from qaicl.oracle.report.document import Report
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.track_record import live_record
from qaicl.settings import Settings


def has_network(settings: Settings, asset: str) -> bool:
    """Whether the asset has a network of its own."""
    known = settings.values.oracle.assets.get(asset)
    return known is not None and bool(known.network)


def make_report(
    settings: Settings,
    *,
    asset: str | None,
    horizon: timedelta,
    recorded: bool,
    now: datetime | None = None,
    cluster: Mapping[str, float] | None = None,
    timings: Timings | None = None,
) -> Report:
    """The report on an asset of the settings, from what is stored.

    Args:
        asset: None: the settings' first.
        recorded: use the records that ship with the project.
        now: the moment to look from and the report's own time; None: the clock.

    Raises:
        UnknownAssetError, NothingStoredError, OracleStoreError: see the store.
    """
    timings = timings or Timings()
    clock = now or datetime.now(UTC)
    with timings.part("store"), open_store(settings, recorded=recorded) as store:
        name = known_asset(settings, store, asset)
        snapshot = Snapshot.load(store, name, now=None if recorded else clock, settings=settings.values.oracle)
        live = live_record(store, name, horizon, snapshot.now)
    return build_report(
        snapshot,
        horizon,
        generated_at=clock,
        settings=settings,
        has_network=has_network(settings, name),
        live=live,
        cluster=cluster,
        timings=timings,
    )


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    A link stays, and what it leads to is written. A device or a pipe, such as ``/dev/stdout``, is written into, never
    replaced.

    Raises:
        UsageError: the directory is missing, not writable or full; the old file stays.
    """
    try:
        if file.exists() and not file.is_file():
            with file.open("w", encoding="utf-8") as out:
                out.write(text)
            return
        file = file.resolve()
        handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
            Path(partial).chmod(0o644)
            Path(partial).replace(file)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {file}", why=error.strerror or str(error), fix="choose another file with --output"
        ) from error
