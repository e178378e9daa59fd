"""``qaicl oracle train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

app = typer.Typer(help="Train the sentiment model.")


@app.command(
    epilog="Example: qaicl oracle train --tweets tweets-train.csv --adapter adapter.safetensors --epochs 3 --seed 7"
)
def train(
    ctx: typer.Context,
    tweets: Annotated[Path, typer.Option(help="Labelled text beside the project's own headlines: columns text,label.")],
    adapter: Annotated[Path, typer.Option(help="The adapter file to write.")],
    base: Annotated[Path | None, typer.Option(help="The base encoder's directory [default: the model store].")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 3,
    seed: Annotated[int, typer.Option(help="Same seed, data and machine: same adapter.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Compute threads.")] = 1,
    output: Output = Format.text,
) -> None:
    """Train the sentiment adapter; about an hour on one core. Interrupt it and run it again: it goes on."""
    import sys

    import msgspec
    import torch
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn, TimeRemainingColumn

    from qaicl import settings
    from qaicl.models import ready
    from qaicl.oracle.sentiment import training
    from qaicl.oracle.sentiment.service import BASE

    torch.set_num_threads(threads)
    recipe = training.Recipe(seed=seed, epochs=epochs)
    examples = training.corpus(tweets)
    with Bar(
        TextColumn("{task.description}"),
        *Bar.get_default_columns()[1:3],
        TimeRemainingColumn(),
        console=console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("training", total=None)

        def show(progress: training.Progress) -> None:
            bar.update(
                task, completed=progress.step, total=progress.steps, description=f"training, loss {progress.loss:.3f}"
            )
            if not sys.stderr.isatty() and progress.step % 50 == 0:
                say(f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}")

        card = training.train(base or ready(settings.load(ctx.obj), BASE), examples, recipe, adapter, report=show)
    if output is Format.json:
        emit_json({"adapter": str(adapter), "card": msgspec.to_builtins(card)})
    else:
        say(f"wrote {adapter}, version {card.run if card else ''}")
