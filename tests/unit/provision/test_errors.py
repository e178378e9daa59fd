"""Every error says what happened, why, and what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qaicl
from qaicl import errors

PACKAGE = Path(qaicl.__file__).parent
FILES = [*sorted((PACKAGE / "provision").rglob("*.py")), PACKAGE / "cli" / "provision.py"]
OURS = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.QaiclError)
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_error_leaves_out_a_part(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OURS:
            given = {keyword.arg for keyword in node.keywords}
            assert {"why", "fix"} <= given, f"line {node.lineno}"
