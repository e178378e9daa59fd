"""Qubic's public RPC: tick, epoch, supply, burned coins, active addresses.

``/live/v1/tick-info`` and ``/v1/latest-stats``; 64-bit integers come as strings, and the service says that its
replies may change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import msgspec

from qaicl.errors import SourceError
from qaicl.oracle.observations import Batch, Kind, NetworkStats, Observation
from qaicl.oracle.sources.protocol import Access, batch, moment, shaped

ROOT = "https://rpc.qubic.org"

# What the database has room for; a larger number would be no source's failure but the database's.
_Epoch = Annotated[int, msgspec.Meta(le=2**31 - 1)]
_Count = Annotated[int, msgspec.Meta(le=2**63 - 1)]


class _Tick(msgspec.Struct):
    tick: _Count
    epoch: _Epoch
    duration: float | None = None


class _TickInfo(msgspec.Struct, rename="camel"):
    tick_info: _Tick


class _Stats(msgspec.Struct, rename="camel"):
    timestamp: int
    circulating_supply: _Count | None = None
    active_addresses: _Count | None = None
    price: float | None = None
    market_cap: float | None = None
    epoch: _Epoch | None = None
    current_tick: _Count | None = None
    ticks_in_current_epoch: _Count | None = None
    empty_ticks_in_current_epoch: _Count | None = None
    epoch_tick_quality: float | None = None
    burned_qus: _Count | None = None


class _LatestStats(msgspec.Struct):
    data: _Stats


class Qubic:
    """Asks for the statistics and the present tick; the statistics are kept where only the tick fails."""

    name = "qubic"

    def __init__(self, access: Access) -> None:
        self._access = access
        self._assets = [asset for asset, known in access.settings.assets.items() if known.network == "qubic"]

    def skipped(self) -> str:
        return "" if self._assets else "no asset has the network qubic"

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        root = self._access.root(self.name, ROOT)
        reply = await self._access.client.get(self.name, root + "/v1/latest-stats")
        stats = shaped(reply, _LatestStats).data
        tick: _Tick | None = None
        failure: SourceError | None = None
        try:
            tick = shaped(await self._access.client.get(self.name, root + "/live/v1/tick-info"), _TickInfo).tick_info
        except SourceError as error:
            failure = error
        at = moment(reply, stats.timestamp)
        figures = (
            ("price", stats.price, "USD", Kind.price),
            ("market_cap", stats.market_cap, "USD", Kind.price),
            ("circulating_supply", stats.circulating_supply, "", Kind.supply),
        )
        yield batch(
            reply,
            network=[
                NetworkStats(
                    source=self.name,
                    asset=asset,
                    observed_at=at,
                    fetched_at=reply.fetched_at,
                    sha256=reply.sha256,
                    epoch=tick.epoch if tick else stats.epoch,
                    tick=tick.tick if tick else stats.current_tick,
                    tick_duration=tick.duration if tick else None,
                    ticks_in_epoch=stats.ticks_in_current_epoch,
                    empty_ticks=stats.empty_ticks_in_current_epoch,
                    tick_quality=stats.epoch_tick_quality,
                    active_addresses=stats.active_addresses,
                    circulating_supply=stats.circulating_supply,
                    burned=stats.burned_qus,
                    price=stats.price,
                    market_cap=stats.market_cap,
                )
                for asset in self._assets
            ],
            observations=[
                Observation(
                    source=self.name,
                    kind=kind,
                    asset=asset,
                    metric=metric,
                    observed_at=at,
                    fetched_at=reply.fetched_at,
                    sha256=reply.sha256,
                    value=float(value),
                    unit=unit,
                )
                for asset in self._assets
                for metric, value, unit, kind in figures
                if value is not None
            ],
        )
        if failure is not None:
            raise failure
