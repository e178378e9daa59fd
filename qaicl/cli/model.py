"""``qaicl model``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

if TYPE_CHECKING:
    from types import FrameType

    from qaicl.models.manifest import Manifest
    from qaicl.models.progress import Progress
    from qaicl.settings import Settings

app = typer.Typer(help="List, pull and verify models.", no_args_is_help=True)

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Models of the catalogue.")]


@app.callback()
def group() -> None:
    """List, pull and verify models."""


@app.command("list", epilog="Example: qaicl model list -o json")
def list_models(ctx: typer.Context, output: Output = Format.text) -> None:
    """Show the models of the catalogue, and which of them are here."""
    from qaicl import models, settings
    from qaicl.models.files import readable_size
    from qaicl.models.listing import listing

    loaded = settings.load(ctx.obj)
    entries = listing(models.open_catalogue(loaded), models.open_store(loaded))
    if output is Format.json:
        emit_json(entries)
        return
    from rich.table import Column, Table

    table = Table(*(Column(title, no_wrap=True) for title in ("model", "state", "size", "family", "licence")), box=None)
    for entry in entries:
        size = readable_size(entry.size) if entry.size else "?"
        table.add_row(entry.name, entry.state, size, entry.family, entry.licence)
    console().print(table)


@app.command(epilog="Example: qaicl model pull smollm2-135m all-minilm-l6-v2")
def pull(
    ctx: typer.Context,
    names: Names,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; change nothing.")] = False,
    output: Output = Format.text,
) -> None:
    """Fetch models, verify and convert them; an interrupted pull goes on where it was.

    A token for gated models comes from HF_TOKEN or the file that models.token_file names.
    """
    from qaicl import settings

    loaded = settings.load(ctx.obj)
    if dry_run:
        _show_plans(loaded, names, output)
        return
    landed = [pull_model(loaded, name) for name in names]
    if output is Format.json:
        emit_json([{"name": found.name, "size": found.size, "digest": found.digest} for found in landed])


@app.command(epilog="Example: qaicl model verify smollm2-135m")
def verify(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Models to check; all that are here by default.")
    ] = None,
    output: Output = Format.text,
) -> None:
    """Read every file again and compare it with what was recorded at the pull."""
    from qaicl import models, settings
    from qaicl.errors import DamagedFileError, ModelMissingError

    store = models.open_store(settings.load(ctx.obj))
    results: list[dict[str, Any]] = []
    failed: list[DamagedFileError | ModelMissingError] = []
    for name in names or store.list():
        try:
            with _progress() as progress:
                found = store.verify(name, progress)
            results.append({"name": name, "whole": True, "digest": found.digest, "why": ""})
        except (DamagedFileError, ModelMissingError) as error:
            failed.append(error)
            results.append({"name": name, "whole": False, "digest": "", "why": error.why})
    if output is Format.json:
        emit_json(results)
    else:
        for result in results:
            typer.echo(f"{result['name']}: {'whole' if result['whole'] else result['why']}")
        if not results:
            say("no model is here; run: qaicl model pull NAME")
    if failed:
        raise failed[0]


def pull_model(settings: Settings, name: str) -> Manifest:
    """Pull one model with progress on a terminal; Ctrl-C and SIGTERM leave it resumable.

    Raises:
        InterruptedByUserError: the pull was stopped.
        ModelError: see :func:`qaicl.models.pull`.
    """
    from qaicl import models
    from qaicl.errors import InterruptedByUserError
    from qaicl.models.files import readable_size

    try:
        with _sigterm_as_interrupt(), _progress() as progress:
            landed = models.pull(settings, name, progress)
    except KeyboardInterrupt as error:
        raise InterruptedByUserError(
            f"the pull of {name} was interrupted",
            why="nothing was installed; what arrived is kept",
            fix=f"go on with: qaicl model pull {name}",
        ) from error
    say(f"{name} is here, verified: {readable_size(landed.size)}")
    return landed


def _show_plans(settings: Settings, names: list[str], output: Format) -> None:
    from qaicl import models
    from qaicl.models.files import readable_size

    plans = [models.plan(settings, name) for name in names]
    if output is Format.json:
        emit_json(plans)
        return
    for plan in plans:
        if plan.here:
            typer.echo(f"{plan.name}: here already, nothing to fetch")
            continue
        typer.echo(f"{plan.name} from {plan.source}")
        for item in plan.files:
            size = "size not known" if item.size is None else readable_size(item.size)
            resumed = item.missing is not None and item.missing != item.size
            rest = f", {readable_size(item.missing)} to fetch" if item.missing is not None and resumed else ""
            typer.echo(f"  {item.name}  {size}{rest}")
        if plan.room:
            typer.echo(f"  takes {readable_size(plan.room)} in the store")


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    import signal

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere only what keeps somebody waiting."""
    from qaicl.models.progress import Phase, Step

    if not sys.stderr.isatty():

        def speak(step: Step) -> None:
            if step.phase in (Phase.waiting, Phase.retrying):
                say(f"{step.file}: {step.note}")

        yield speak
        return
    from rich import progress as bars

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    ) as display:
        task = display.add_task("", total=None)
        shown: list[str] = [""]

        def show(step: Step) -> None:
            if step.phase in (Phase.waiting, Phase.retrying):
                display.console.print(f"{step.file}: {step.note}")
            title = f"{step.phase.value} {step.file}"
            if title != shown[0]:
                shown[0] = title
                display.reset(task, total=step.total, description=title)
            display.update(task, completed=step.done, total=step.total)

        yield show
