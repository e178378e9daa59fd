"""What every command shares: data to stdout, talk to stderr, ``-o json`` everywhere."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qaicl.errors import QaiclError

if TYPE_CHECKING:
    from rich.console import Console

JSON_VERSION = 1


class Format(StrEnum):
    """How a command prints its data."""

    text = "text"
    json = "json"


Output = Annotated[Format, typer.Option("-o", "--output-format", help="Print data as text or as versioned JSON.")]


def console(stderr: bool = False) -> Console:
    """A rich console that honours NO_COLOR and stays plain off a terminal.

    Brackets are no markup, and no error: texts from outside are shown. Style comes with ``rich.text.Text``.
    """
    from rich.console import Console

    # Off a terminal there is no width to fit into, and a cut table is of no use to grep.
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 220
    return Console(
        stderr=stderr, no_color="NO_COLOR" in os.environ, highlight=False, width=width, markup=False, emoji=False
    )


def emit_json(data: Any) -> None:
    """Print one JSON document to stdout.

    An object gets ``"version": 1`` as its first key; a list is printed as ``{"version": 1, "items": [...]}``.
    """
    plain = msgspec.to_builtins(data, str_keys=True)
    document = (
        {"version": JSON_VERSION, "items": plain} if isinstance(plain, list) else {"version": JSON_VERSION, **plain}
    )
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def say(text: str) -> None:
    """Tell the person at the terminal something; never data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show_error(error: QaiclError) -> None:
    """Print what happened, why, and what to do; as JSON where the command line asked for JSON."""
    if _json_wanted(sys.argv):
        sys.stderr.write(msgspec.json.encode(error.as_dict()).decode() + "\n")
        return
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    label = "\x1b[1;31merror:\x1b[0m" if colour else "error:"
    say(f"{label} {error.what}")
    if error.why:
        say(f"  why: {error.why}")
    if error.fix:
        say(f"  do:  {error.fix}")


def _json_wanted(arguments: list[str]) -> bool:
    joined = " ".join(arguments)
    return any(form in joined for form in ("-o json", "-ojson", "--output-format json", "--output-format=json"))


def confirm(question: str, yes: bool) -> None:
    """Ask before harm; ``--yes`` answers for scripts.

    Raises:
        UsageError: stdin is not a terminal and ``--yes`` was not given.
        InterruptedByUserError: the answer was no.
    """
    from qaicl.errors import InterruptedByUserError, UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this needs a confirmation", why="stdin is not a terminal", fix="add --yes")
    if not typer.confirm(question, err=True):
        raise InterruptedByUserError("nothing was changed", why="the answer was no")
