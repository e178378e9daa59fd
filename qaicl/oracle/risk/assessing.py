"""An asset's risk from the settings alone: opens the store, measures, assesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from qaicl.oracle import indicators
from qaicl.oracle.anomalies.scan import Anomaly, scan
from qaicl.oracle.opening import known_asset, open_store
from qaicl.oracle.risk.assessment import RiskAssessment
from qaicl.oracle.risk.inputs import assess_snapshot
from qaicl.oracle.snapshot import Snapshot
from qaicl.settings import Settings


def assess_asset(
    settings: Settings,
    *,
    asset: str | None,
    recorded: bool,
    now: datetime | None = None,
    cluster: Mapping[str, float] | None = None,
) -> tuple[Snapshot, RiskAssessment]:
    """The snapshot and the risk of an asset of the settings.

    Raises:
        UnknownAssetError, NothingStoredError, OracleStoreError: see the store.
    """
    with open_store(settings, recorded=recorded) as store:
        name = known_asset(settings, store, asset)
        moment = None if recorded else now or datetime.now(UTC)
        snapshot = Snapshot.load(store, name, now=moment, settings=settings.values.oracle)
    return snapshot, assess_known(snapshot, scan(snapshot), settings, cluster)


def assess_known(
    snapshot: Snapshot,
    anomalies: Sequence[Anomaly],
    settings: Settings,
    cluster: Mapping[str, float] | None = None,
) -> RiskAssessment:
    """The risk of a snapshot whose anomalies are found already."""
    known = settings.values.oracle.assets.get(snapshot.asset)
    rsi = None if snapshot.candles.empty else float(indicators.frame(snapshot.candles)["rsi_14"].iloc[-1])
    return assess_snapshot(
        snapshot,
        anomalies,
        rsi,
        has_network=known is not None and bool(known.network),
        alert_from=settings.values.alerts.risk_from,
        cluster=cluster,
    )
