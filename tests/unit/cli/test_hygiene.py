"""What the command line promises as a whole: light imports, documented options, examples everywhere."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from qaicl.cli.main import Root, app, run

HEAVY = {"torch", "transformers", "pandas", "textual", "redis", "numpy", "zmq", "fabric", "paramiko", "sqlalchemy"}


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups included."""
    command = typer.main.get_command(app) if command is None else command
    if path:
        yield path, command
    for name in command.list_commands(None) if hasattr(command, "list_commands") else []:
        yield from commands(command.get_command(None, name), (*path, name))


ALL = list(commands())
LEAVES = [(path, command) for path, command in ALL if not hasattr(command, "list_commands")]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ask", "--help"], ["config", "show"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from qaicl.cli.main import run
run({arguments!r})
sys.stderr.write(" ".join(sorted(name for name in sys.modules if name in {HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("name", list(Root.table))
def test_a_command_module_imports_nothing_heavy(name: str) -> None:
    module = Root.table[name][0]
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_explains_itself(path: tuple[str, ...], command: Any) -> None:
    assert command.help, "what it does"
    assert command.epilog and "qaicl " in command.epilog, "an example"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"what {parameter.name} means"


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_can_print_json(path: tuple[str, ...], command: Any) -> None:
    if path[0] in ("daemon", "demo") or path[-1] == "watch":
        return
    assert any("-o" in getattr(parameter, "opts", ()) for parameter in command.params)


DOCUMENTED = {
    "up": {"--nodes", "--orchestrators", "--model", "--precision"},
    "ask": {
        "--mode",
        "--stages",
        "--max-tokens",
        "--temperature",
        "--top-p",
        "--seed",
        "--system",
        "--resume",
    },
    "plan": {"--explain"},
    "config show": {"--origin"},
    "down": set(),
    "status": set(),
    "doctor": set(),
    "node list": set(),
    "node show": set(),
    "node add": set(),
    "node drain": set(),
    "node remove": {"--yes"},
    "model list": set(),
    "model pull": set(),
    "model verify": set(),
    "daemon orchestrator": {"--name", "--bind"},
    "daemon node": {"--name", "--bind"},
}


@pytest.mark.parametrize("line", DOCUMENTED)
def test_documented_commands_and_options_exist(line: str) -> None:
    command = dict(ALL)[tuple(line.split())]
    options = {option for parameter in command.params for option in getattr(parameter, "opts", ())}
    assert options >= DOCUMENTED[line]


def test_the_table_of_commands_names_real_modules() -> None:
    for module, text in Root.table.values():
        assert importlib.import_module(module).app
        assert text[0].isupper() and not text.endswith(".")


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["aks"]) == 2
    assert "aks" in capsys.readouterr().err


def test_completion_can_be_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qaicl", "--show-completion", "bash"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
