"""A run for the eyes: what a machine says is shown as it says it."""

from __future__ import annotations

import io
import json

import pytest

from qaicl.provision import render
from qaicl.provision.checks import Finding
from qaicl.provision.events import Event, Events
from qaicl.provision.plan import SavedHost, SavedPlan, SavedStep

HOSTILE = "[/nothing] [bold]x[/bold] [link=file:///etc]"
"""What rich would take for markup, and the first part for an error in it."""


def _event(kind: str, **more: object) -> Event:
    return Event(version=1, time=0.0, kind=kind, **more)  # type: ignore[arg-type]


RUN = (
    _event("planned", host="a", changes=2),
    _event("step-started", host="a", step="s", name=HOSTILE),
    _event("upload", host="a", step="s", name=HOSTILE, done=1, total=2),
    _event("step-done", host="a", step="s", name=HOSTILE, seconds=1.26, ok=True),
    _event("step-failed", host="a", step="t", name="Two", text=HOSTILE, ok=False),
    _event("rebooting", host="a"),
    _event("rebooted", host="a", seconds=0.01),
    _event("host-done", host="a", changes=1, text=HOSTILE, ok=False),
    _event("host-done", host="b", changes=0, seconds=2.0, ok=True),
    _event("host-unreachable", host="c", text="c does not answer"),
    _event("context-written", name="demo", text="/somewhere"),
    _event("check", host="a", name="disk", ok=True),
    _event("run-done", ok=False),
)
LINES = [
    f"a: {HOSTILE} (1.3 s)",
    f"a: FAILED Two: {HOSTILE}",
    "a: rebooting …",
    "a: is back",
    f"a: not done: {HOSTILE}",
    "b: done, 0 changed (2.0 s)",
    "c: c does not answer",
    "context 'demo' written",
]


def test_off_a_terminal_each_thing_worth_knowing_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for event in RUN:
        render.plain(event)
    said = capsys.readouterr()
    assert said.err.splitlines() == LINES
    assert said.out == ""


def test_live_lines_stay_and_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with render.live() as listen:
        for event in RUN:
            listen(event)
    shown = terminal.getvalue()
    for line in LINES:
        assert line in shown
    assert f"{HOSTILE} 50 %" in shown or "\x1b[2K" in shown  # the moving part comes and goes


def test_json_is_one_versioned_event_a_line_without_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(render.json_line, lambda text: text.replace("hunter22", "***"))
    events("step-failed", "a", step="s", text="hunter22\nand more", ok=False)
    events("run-done", ok=True)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first.pop("time") > 0
    assert first == {
        "version": 1,
        "kind": "step-failed",
        "host": "a",
        "step": "s",
        "text": "***\nand more",
        "ok": False,
    }
    assert set(second) == {"version", "time", "kind", "ok"}


def test_a_plan_for_a_person_says_what_is_skipped_and_what_cannot_be_taken_back() -> None:
    def step(name: str, undo: list[str], diff: str = "", why: str = "") -> SavedStep:
        return SavedStep(
            id=name, name=name, operation="file", why=why, reason="it differs", diff=diff, undo=undo, digest=""
        )

    skipped = [
        {"id": "g/1", "reason": "no GPU"},
        {"id": "g/2", "reason": "no GPU"},
        {"id": "r", "reason": "not for a host that is node"},
    ]
    host = SavedHost("a", [step("s", ["undo"], "-x\n+y", "safety"), step("t", [])], 5, skipped)
    document = SavedPlan(cluster="demo", inventory="", playbook="site", limit=[], tags=[], hosts=[host])
    assert list(render.plan_lines(document)) == [
        "a: 2 to change, 5 as they should be, 3 skipped",
        "  - skipped 2: no GPU",
        "  ~ s: it differs, for safety",
        "      -x",
        "      +y",
        "  ~ t: it differs [irreversible]",
    ]


def test_the_table_of_checks_shows_what_was_found_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    render.check_table(
        [
            Finding("disk", "a", True, "5 GB free", ""),
            Finding("model", "a", False, HOSTILE, "pull it again"),
            Finding("gpu", "a", None, "no device", ""),
        ]
    )
    said = capsys.readouterr()
    assert said.err == ""
    rows = [line.split() for line in said.out.splitlines()]
    assert ["a", "disk", "ok", "5", "GB", "free"] in rows
    assert ["a", "model", "FAILED", *HOSTILE.split()] in rows
    assert ["do:", "pull", "it", "again"] in rows
    assert ["a", "gpu", "skipped", "no", "device"] in rows
