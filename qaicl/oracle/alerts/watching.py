"""One round of watching: assess every asset, evaluate its alerts, deliver what is due. For the daemon's schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from qaicl.errors import NothingStoredError
from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.outbox import Delivered, Outbox
from qaicl.oracle.alerts.rules import conditions
from qaicl.oracle.alerts.sinks import sinks
from qaicl.oracle.anomalies.scan import scan
from qaicl.oracle.risk.assessing import assess_known
from qaicl.oracle.snapshot import Snapshot
from qaicl.oracle.store import Store
from qaicl.settings import Settings


def watch_round(
    store: Store, settings: Settings, now: datetime, cluster: Mapping[str, float] | None = None
) -> tuple[int, Delivered]:
    """Assess, evaluate, forget what is older than the retention, deliver.

    May run beside :func:`deliver_due`, here or elsewhere: a message is sent by one.

    Args:
        cluster: risk factors measured on a cluster, see :func:`~qaicl.oracle.risk.inputs.assess_snapshot`.

    Returns:
        Messages put into the outbox, and what came of delivering. An asset of which nothing is stored is passed over.

    Raises:
        OracleStoreError: the database fails. SettingsError: a sink's settings are wrong; nothing is evaluated then.
    """
    values = settings.values
    engine = AlertEngine(store, values.alerts)
    outbox = Outbox(store, sinks(values.alerts, settings.paths, settings.context))
    queued = 0
    for asset in values.oracle.assets:
        try:
            snapshot = Snapshot.load(store, asset, now=now, settings=values.oracle)
        except NothingStoredError:
            continue
        odd = scan(snapshot)
        risk = assess_known(snapshot, odd, settings, cluster)
        queued += engine.evaluate(conditions(snapshot, risk, odd, values.alerts), {"asset": asset}, now)
    # An asset that was taken out of the settings is measured no more; what it rang for ends.
    for gone in {alert.labels.get("asset", "") for alert in engine.active()} - {"", *values.oracle.assets}:
        queued += engine.evaluate([], {"asset": gone}, now)
    queued += engine.tick(now)
    outbox.prune(now - timedelta(days=values.oracle.retention_days))
    return queued, outbox.deliver()


def deliver_due(store: Store, settings: Settings, now: datetime) -> tuple[int, Delivered]:
    """Queue what time alone made due (waits, repeats) and deliver; call it every few seconds.

    Returns, Raises:
        As :func:`watch_round`.
    """
    outbox = Outbox(store, sinks(settings.values.alerts, settings.paths, settings.context))
    queued = AlertEngine(store, settings.values.alerts).tick(now)
    return queued, outbox.deliver()
