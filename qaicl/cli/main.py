"""The entry point: the table of commands, global options, and errors turned into exit codes."""

from __future__ import annotations

import sys
from typing import Annotated, Any, ClassVar

import typer

from qaicl import __version__
from qaicl.cli.lazy import LazyGroup
from qaicl.errors import QaiclError


class Root(LazyGroup):
    """Every top-level command; importing a command's module happens when it is run."""

    table: ClassVar[dict[str, tuple[str, str]]] = {
        "up": ("qaicl.cli.up", "Start a local cluster, or what is missing of it"),
        "ask": ("qaicl.cli.ask", "Ask the cluster a question"),
        "status": ("qaicl.cli.status", "Show the leader, the nodes, the queue and the store"),
        "plan": ("qaicl.cli.plan", "Show where a request would run, and why"),
        "node": ("qaicl.cli.node", "List, show, add, drain and remove nodes"),
        "model": ("qaicl.cli.model", "List, pull and verify models"),
        "down": ("qaicl.cli.down", "Stop the local cluster"),
        "doctor": ("qaicl.cli.doctor", "Look for what is wrong, and say what to do"),
        "demo": ("qaicl.cli.demo", "A cluster of its own, a question, a killed node, and the answer all the same"),
        "config": ("qaicl.cli.config", "Show the settings and where each comes from"),
        "daemon": ("qaicl.cli.daemon", "Run one daemon in the foreground"),
        "provision": ("qaicl.cli.provision", "Turn bare machines into a cluster, over SSH"),
        "oracle": ("qaicl.cli.oracle", "Collect market data, report on it, assess risk"),
    }


app = typer.Typer(
    cls=Root,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qaicl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    context: Annotated[
        str | None,
        typer.Option("--context", help="The cluster to talk to [env: QAICL_CONTEXT].", metavar="NAME"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One LLM cluster out of a few machines.

    Start here:  qaicl up   then   qaicl ask "Why is the sky blue?"
    """
    ctx.obj = context


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    from typer import _click

    try:
        command: Any = typer.main.get_command(app)
        result = command.main(args=arguments, prog_name="qaicl", standalone_mode=False)
    except QaiclError as error:
        from qaicl.cli.output import show_error

        show_error(error)
        return error.exit_code
    except _click.exceptions.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def main() -> None:
    """Console script ``qaicl``."""
    sys.exit(run())
