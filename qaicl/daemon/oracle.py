"""The oracle's daemon: refreshes on time, runs the jobs that judge what was collected, ends in order on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import msgspec

from qaicl.daemon.log import Log
from qaicl.errors import QaiclError
from qaicl.oracle.collect import collect
from qaicl.oracle.keys import load_keys
from qaicl.oracle.opening import open_store
from qaicl.oracle.store import Store
from qaicl.settings import Settings

RETRY = 30.0
"""Seconds after which work that failed is tried again, or its usual period where that is shorter."""

DELIVER_EVERY = 10.0


@dataclass(frozen=True)
class Job:
    """Something done on a schedule with what is stored.

    ``run`` gets the store, the settings and the present, works synchronously in a thread, may be run again after a
    crash, and returns a line for the log, or nothing where there is nothing to say.
    """

    name: str
    every: float
    """Seconds."""
    run: Callable[[Store, Settings, datetime], str]


def standard_jobs(settings: Settings) -> tuple[Job, ...]:
    """Risk, alerts and the forecasts' record on what was collected; alerts that wait or repeat, every few seconds."""
    return (
        Job("risk", settings.values.oracle.risk_every, _assess),
        Job("forecast", settings.values.oracle.refresh_every, _forecast),
        Job("alerts", DELIVER_EVERY, _deliver),
    )


def _assess(store: Store, settings: Settings, now: datetime) -> str:
    from qaicl.oracle.alerts.watching import watch_round

    queued, delivered = watch_round(store, settings, now)
    return "; ".join(part for part in ("risk assessed", f"{queued} messages queued", str(delivered)) if part)


def _forecast(store: Store, settings: Settings, now: datetime) -> str:
    from qaicl.oracle.track_record import keep_record

    made, resolved = keep_record(store, settings, now)
    return f"{made} forecasts written down, {resolved} outcomes known"


def _deliver(store: Store, settings: Settings, now: datetime) -> str:
    from qaicl.oracle.alerts.watching import deliver_due

    _, delivered = deliver_due(store, settings, now)
    return str(delivered)


class OracleDaemon:
    """Runs until SIGTERM or SIGINT.

    A refresh that is cut off is safe: the next one, here or in another process, fetches what is missing.

    Raises:
        OracleStoreError: the database cannot be opened at the start; one that fails later is waited for.
        SettingsError: a key file or setting is wrong.
    """

    def __init__(self, settings: Settings, jobs: Sequence[Job] = ()) -> None:
        self._settings = settings
        self._jobs = tuple(jobs)
        self._log = Log("oracle")
        self._refreshed = asyncio.Event()

    def run(self) -> None:
        """Work until a signal ends it."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        keys = load_keys(self._settings.values.oracle, self._settings.paths, self._settings.context)
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        with open_store(self._settings) as store:
            self._log("info", "started", database=store.url.render_as_string(hide_password=True))
            every = self._settings.values.oracle.refresh_every
            tasks = [asyncio.create_task(self._repeat("refresh", every, partial(self._refresh, store, keys)))]
            tasks += [
                asyncio.create_task(self._repeat(job.name, job.every, partial(self._do, job, store)))
                for job in self._jobs
            ]
            ended = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        self._log("info", "stopped")
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _repeat(self, name: str, every: float, work: Callable[[], Awaitable[str]]) -> None:
        """Do it again and again, ``every`` seconds from begin to begin; sooner after a failure."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            wait = every
            try:
                if result := await work():
                    self._log("info", name, result=result)
            except QaiclError as error:
                wait = min(RETRY, every)
                self._log("error", name, **error.as_dict())
            await asyncio.sleep(max(0.0, began + wait - loop.time()))

    async def _refresh(self, store: Store, keys: dict[str, str]) -> str:
        try:
            collected = await collect(store, self._settings.values.oracle, keys)
        finally:
            self._refreshed.set()
        for failed in collected.failed:
            self._log("warning", "source failed", source=failed.source, reason=failed.reason)
        answered = sum(result.status == "ok" for result in collected.sources)
        new = sum(msgspec.structs.astuple(collected.stored))
        return f"{answered} of {len(collected.sources)} sources answered, {new} new records"

    async def _do(self, job: Job, store: Store) -> str:
        # Judging before the first refresh would judge what is old.
        await self._refreshed.wait()
        return await asyncio.to_thread(job.run, store, self._settings, datetime.now(UTC))
