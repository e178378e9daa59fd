"""``qaicl oracle watch``."""

from __future__ import annotations

from typing import Annotated

import typer

from qaicl.cli.output import Format, Output

app = typer.Typer()


@app.command(epilog="Example: qaicl oracle watch --asset qubic --every 10")
def watch(
    ctx: typer.Context,
    asset: Annotated[
        str | None, typer.Option("--asset", help="An asset of the settings; the first by default.")
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between looks into the store.")] = 5.0,
    count: Annotated[int, typer.Option("--count", min=0, help="End after so many figures; 0 goes on.")] = 0,
    output: Output = Format.text,
) -> None:
    """Print an asset's price each time that something new is collected; one JSON object a line with -o json.

    It only reads: `qaicl daemon oracle` or `qaicl oracle collect` collects.
    """
    import time

    from qaicl import settings
    from qaicl.oracle.opening import known_asset, open_store

    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        name = known_asset(loaded, store, asset)
        seen, printed = None, 0
        while True:
            newest = store.as_of(name)
            if newest is not None and newest != seen:
                _show(store, name, loaded.values.oracle, output)
                seen, printed = newest, printed + 1
                if printed == count:
                    return
            time.sleep(every)


def _show(store: object, asset: str, settings: object, output: Format) -> None:
    import sys

    import msgspec

    from qaicl.oracle.snapshot import Snapshot
    from qaicl.oracle.store import Store
    from qaicl.settings import OracleSettings

    assert isinstance(store, Store)
    assert isinstance(settings, OracleSettings)
    price = Snapshot.load(store, asset, settings=settings).price
    if output is Format.json:
        line = {"version": 1, "asset": asset, **msgspec.to_builtins(price)}
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    else:
        at = f"{price.observed_at:%Y-%m-%d %H:%M:%S}" if price.observed_at else "-"
        value = "-" if price.value is None else f"{price.value:.8g}"
        sources = ", ".join(price.sources)
        sys.stdout.write(f"{at}  {asset}  {value} {price.unit}  {price.state}  {sources}\n")
    sys.stdout.flush()
