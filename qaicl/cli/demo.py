"""``qaicl demo``: the whole thing in one go, with a node killed in the middle of an answer."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from qaicl.cli.output import say

if TYPE_CHECKING:
    from qaicl.daemon.supervisor import Supervisor
    from qaicl.wire.client import Client
    from qaicl.wire.messages import Outcome

app = typer.Typer()

CONTEXT = "demo"


@app.command(epilog="Example: qaicl demo")
def demo(
    tokens: Annotated[int, typer.Option("--tokens", min=20, help="Length of each answer.")] = 48,
    precision: Annotated[str, typer.Option("--precision", help="Precision of the weights.")] = "float32",
) -> None:
    """Start a cluster of its own, ask, kill a node in the middle of an answer, and stop everything."""
    from qaicl import settings
    from qaicl.cli.pulling import ensure_model
    from qaicl.daemon.supervisor import Supervisor
    from qaicl.wire.client import Client

    loaded = settings.load(CONTEXT, {"cluster.precision": precision})
    for model in (loaded.values.cluster.model, "all-minilm-l6-v2"):
        ensure_model(loaded, model)
    supervisor = Supervisor(loaded)
    try:
        report = supervisor.up(set(), say)
        typer.echo(f"{len(report['nodes'])} nodes up in {report['seconds']:.1f} s; {report['leader']} leads")
        with Client(loaded.paths.context(CONTEXT)) as client:
            _heading("A question, its model split by layers over the nodes")
            _show(_ask(client, "Why is the sky blue?", tokens))
            _heading("The same, and in the middle of the answer a node is killed")
            _show(_ask(client, "How do bees find their way home?", tokens, supervisor))
    finally:
        stopped = supervisor.down()["stopped"]
        typer.echo(f"\nstopped {', '.join(stopped)}")


def _heading(text: str) -> None:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    typer.echo(f"\n\x1b[1m{text}\x1b[0m" if colour else f"\n{text}")


def _ask(client: Client, question: str, tokens: int, victim: Supervisor | None = None) -> Outcome:
    from qaicl.errors import RequestFailedError
    from qaicl.inference.engine import ChatMessage, Sampling
    from qaicl.wire.messages import RequestSpec, new_id

    typer.echo(f"> {question}")
    spec = RequestSpec(
        new_id(), new_id(), "", (ChatMessage("user", question),), Sampling(max_tokens=tokens), mode="split"
    )
    outcome: Outcome | None = None
    count = 0
    for update in client.ask([spec]):
        sys.stdout.write("".join(token.text for token in update.tokens))
        sys.stdout.flush()
        count += len(update.tokens)
        if victim is not None and count >= tokens // 3:
            name = _kill(victim)
            sys.stdout.write(f" [{name} was killed here] ")
            victim = None
        outcome = update.outcome or outcome
    assert outcome is not None
    typer.echo("")
    if outcome.error:
        raise RequestFailedError(outcome.error, why=outcome.why, fix=outcome.fix)
    return outcome


def _kill(supervisor: Supervisor) -> str:
    """Kill the node that serves a middle stage."""
    from qaicl.wire.client import Client
    from qaicl.wire.messages import StatusQuery, StatusReply

    settings = supervisor.settings
    deadline = time.monotonic() + 5.0
    with Client(settings.paths.context(settings.context)) as client:
        while time.monotonic() < deadline:
            nodes: list[dict[str, object]] = client.call(StatusQuery(), StatusReply).status["nodes"]  # type: ignore[assignment]
            for node in nodes:
                stages = node["stages"]
                if isinstance(stages, list) and stages and stages[0][0] > 0:
                    pid = next(entry.pid for entry in supervisor.running() if entry.name == node["name"])
                    os.kill(pid, signal.SIGKILL)
                    return str(node["name"])
    raise AssertionError("no stage was running")


def _show(outcome: Outcome) -> None:
    for stage in outcome.pipeline:
        typer.echo(f"  {stage.node}: layers {stage.first}-{stage.last}")
    typer.echo(f"  first token after {outcome.first_token_ms:.0f} ms, all after {outcome.total_ms:.0f} ms")
    for failover in outcome.failovers:
        typer.echo(
            f"  stage {failover.stage} moved from {failover.from_node} to {failover.to_node} ({failover.reason}); "
            f"noticed after {failover.detected_ms:.0f} ms, no token for {failover.gap_ms:.0f} ms"
        )
