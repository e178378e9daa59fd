"""``qaicl ask``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qaicl.cli.output import Format, Output, emit_json, say

if TYPE_CHECKING:
    from qaicl.wire.client import Client
    from qaicl.wire.messages import Outcome, RequestSpec, Token

app = typer.Typer()

EXAMPLES = """Examples:

  qaicl ask "Why is the sky blue?"

  qaicl ask --mode split --stages 3 --seed 7 --temperature 0.8 "Tell me a story"

  cat question.txt | qaicl ask - -o json
"""


@app.command(epilog=EXAMPLES)
def ask(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="The question; - reads it from standard input.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="auto, split or replica.")] = "auto",
    stages: Annotated[int, typer.Option("--stages", min=0, help="Nodes to split over; 0 chooses.")] = 0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=0, max=1_000_000, help="Stop after so many tokens.")
    ] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Draw from this much probability.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Draw from so many tokens; 0 from all.")] = 0,
    repetition_penalty: Annotated[float, typer.Option("--repetition-penalty", min=0.01, help="1 is none.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text; repeatable.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="The same seed gives the same answer.")] = 0,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before the question.")] = None,
    model: Annotated[str, typer.Option("--model", help="Refuse if the cluster serves another model.")] = "",
    resume: Annotated[str | None, typer.Option("--resume", metavar="ID", help="Go on with an earlier request.")] = None,
    output: Output = Format.text,
) -> None:
    """Ask the cluster a question; the answer streams to standard output.

    The request's id goes to standard error: with it `--resume` gets the answer again, also after this command was
    interrupted.
    """
    from qaicl import settings
    from qaicl.errors import UsageError
    from qaicl.inference.engine import ChatMessage, Sampling
    from qaicl.wire.client import Client
    from qaicl.wire.messages import RequestSpec, new_id

    if mode not in ("auto", "split", "replica"):
        raise UsageError(f"'{mode}' is not a mode", why="known are auto, split and replica")
    loaded = settings.load(ctx.obj)
    spec: RequestSpec | None = None
    if resume is None:
        text = sys.stdin.read() if prompt == "-" else prompt
        if text is None:
            raise UsageError("no question", why="neither a prompt nor --resume is given", fix='run: qaicl ask "…"')
        if not text.strip():
            raise UsageError("the prompt is empty", why="there is nothing to answer", fix="give a question")
        messages: tuple[ChatMessage, ...] = (ChatMessage("user", text),)
        if system:
            messages = (ChatMessage("system", system), *messages)
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed, max_tokens, tuple(stop or ()))
        spec = RequestSpec(new_id(), new_id(), model, messages, sampling, mode, stages)  # type: ignore[arg-type]
    elif prompt is not None:
        raise UsageError("--resume takes no prompt", why="the request has one already")
    with Client(loaded.paths.context(loaded.context)) as client:
        _answer(client, spec, resume, output)


def _answer(client: Client, spec: RequestSpec | None, resume: str | None, output: Format) -> None:
    request = spec.id if spec is not None else resume
    assert request is not None
    tokens: list[Token] = []
    outcome: Outcome | None = None
    stream = output is Format.text
    try:
        for update in client.ask([spec]) if spec is not None else client.resume(request):
            if update.accepted and sys.stderr.isatty() and not tokens:
                say(f"request {request}")
            tokens += update.tokens
            if stream and update.tokens:
                sys.stdout.write("".join(token.text for token in update.tokens))
                sys.stdout.flush()
            outcome = update.outcome or outcome
    except KeyboardInterrupt:
        say(f"\ninterrupted; go on with: qaicl ask --resume {request}")
        raise
    assert outcome is not None
    if stream and tokens:
        sys.stdout.write("\n")
    if outcome.error:
        from qaicl.errors import PromptError, RequestFailedError

        kind = PromptError if "prompt" in outcome.error else RequestFailedError
        raise kind(outcome.error, why=outcome.why, fix=outcome.fix or f"run: qaicl ask --resume {request}")
    if output is Format.json:
        emit_json(describe(outcome, tokens))
    elif sys.stderr.isatty():
        _footer(outcome, len(tokens))


def describe(outcome: Outcome, tokens: list[Token]) -> dict[str, Any]:
    """The answer as ``-o json`` prints it."""
    import msgspec

    seconds = (outcome.total_ms - outcome.first_token_ms) / 1000
    return {
        "request_id": outcome.id,
        "trace_id": outcome.trace,
        "model": outcome.model,
        "mode": outcome.mode,
        "text": "".join(token.text for token in tokens),
        "token_ids": [token.id for token in tokens],
        "prompt_tokens": outcome.prompt_tokens,
        "finish_reason": outcome.finish_reason,
        "seed": outcome.seed,
        "pipeline": [{"node": stage.node, "layers": [stage.first, stage.last]} for stage in outcome.pipeline],
        "timings": {
            "queued_ms": outcome.queued_ms,
            "first_token_ms": outcome.first_token_ms,
            "total_ms": outcome.total_ms,
            "tokens_per_second": round((len(tokens) - 1) / seconds, 2) if seconds > 0 and len(tokens) > 1 else 0.0,
        },
        "failovers": msgspec.to_builtins(outcome.failovers),
        "reasons": list(outcome.reasons),
    }


def _footer(outcome: Outcome, count: int) -> None:
    where = ", ".join(f"{stage.node} {stage.first}-{stage.last}" for stage in outcome.pipeline)
    say(f"[{outcome.mode}: {where}; {count} tokens in {outcome.total_ms / 1000:.2f} s, "
        f"first after {outcome.first_token_ms:.0f} ms]")  # fmt: skip
    for failover in outcome.failovers:
        say(
            f"[stage {failover.stage} moved from {failover.from_node} to {failover.to_node}: {failover.reason}; "
            f"noticed after {failover.detected_ms:.0f} ms, no token for {failover.gap_ms:.0f} ms]"
        )
