"""Running programs, with an error that says what they said."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import LabError, NotReadyError


def run(
    *command: str | Path,
    stdin: str | None = None,
    timeout: float = 600.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return it with its output.

    Raises:
        LabError: it exited with another code than 0 (only with ``check``), or ran longer than ``timeout`` seconds.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout, env=env, input=stdin or ""
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(words)}: no end after {timeout:g} s") from error
    except FileNotFoundError as error:
        raise LabError(f"{words[0]}: no such program") from error
    if check and done.returncode != 0:
        raise LabError(f"{shlex.join(words)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done


def succeeds(*command: str | Path) -> bool:
    """Whether the program exits with 0."""
    return run(*command, check=False).returncode == 0


def wait_until(condition: Callable[[], object], what: str, *, timeout: float = 30.0, every: float = 0.05) -> None:
    """Return as soon as ``condition()`` is true.

    Raises:
        NotReadyError: it was not within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise NotReadyError(f"{what}: not within {timeout:g} s")
        time.sleep(every)


def words(text: str | Sequence[str]) -> list[str]:
    """A command line as a list, whether it came as one string or as words."""
    return shlex.split(text) if isinstance(text, str) else list(text)
