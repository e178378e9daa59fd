"""``qaicl provision`` as an operator types it: what it prints, what it changes, and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretend import Machine, Operator, wait_until

from qaicl.cli.main import run

NOTE = {"name": "Note", "why": "to have one", "file": {"path": "/opt/note", "content": "new\n"}}
FAILS = {"name": "Breaks", "command": {"run": "echo it is broken >&2; exit 7", "unless": "false"}}
LATER = {"name": "Later", "file": {"path": "/opt/later", "content": "x"}}


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- what is refused before anything happens -----------------------------------------------------------


def test_without_an_inventory_it_says_what_to_run(operator: Operator) -> None:
    done = operator("plan")
    assert done.code == 2
    assert f"qaicl provision init {operator.inventory}" in done.err


def test_a_wrong_inventory_is_named_with_its_line(operator: Operator, machine: Machine) -> None:
    operator.describe(machine, a={"roles": ["orchestrator", "node", "redis", "king"]})
    line = next(number for number, text in enumerate(operator.inventory.read_text().splitlines(), 1) if "king" in text)
    for command in ("plan", "apply", "verify", "status", "bundle"):
        done = operator(command)
        assert (done.code, f"line {line}: " in done.err) == (2, True), command


def test_a_host_that_is_not_in_the_inventory_is_a_usage_error(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE)
    done = operator("plan", "--limit", "b")
    assert done.code == 2
    assert "the hosts are a" in done.err


@pytest.mark.parametrize("command", ["plan", "apply", "bundle", "upgrade"])
def test_a_wheel_that_is_not_there_is_a_usage_error(operator: Operator, machine: Machine, command: str) -> None:
    operator.describe(machine)
    arguments = operator.line(command)
    assert run([*arguments, "--wheel", "/nowhere/qaicl.whl"]) == 2
    assert not operator.private.exists()


def test_off_a_terminal_nothing_is_done_without_yes(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE)
    for command in ("apply", "unlock", "upgrade"):
        done = operator(command)
        assert done.code == 2
        assert "--yes" in done.err
    assert not machine.at("/opt/note").exists()
    assert operator("status").code == 0  # and the lock is free again


def test_an_unpinned_machine_is_refused_off_a_terminal(operator: Operator, machine: Machine) -> None:
    operator.describe(machine, a={"host_key": None})
    operator.playbook(NOTE)
    done = operator("apply", "--yes")
    assert done.code == 5
    assert "ssh-keyscan" in done.err
    assert not machine.at("/opt/note").exists()


def test_one_wrong_host_key_stops_the_run_on_all_machines(
    operator: Operator, machines: Callable[[str], Machine]
) -> None:
    good, bad = machines("a"), machines("b")
    operator.describe(good, bad, b={"host_key": bad.keys.public(bad.keys.other)})
    operator.playbook(NOTE)
    done = operator("apply", "--yes")
    assert done.code == 5
    assert "b shows another host key" in done.err
    assert list(good.at("/opt").iterdir()) == list(bad.at("/opt").iterdir()) == []
    assert not operator.journals.exists()


# --- what goes wrong on the way ------------------------------------------------------------------------


def test_a_machine_that_is_off_does_not_keep_the_others_and_is_done_later(
    operator: Operator, machines: Callable[[str], Machine]
) -> None:
    up, down = machines("a"), machines("b")
    down.stop()
    operator.describe(up, down)
    operator.playbook(NOTE)
    assert operator("plan").code == 4
    assert operator("apply", "--dry-run").code == 4
    done = operator("apply", "--yes")
    assert done.code == 4
    assert f"b ({down.address}:{down.port}) does not answer" in done.err
    assert up.at("/opt/note").read_text() == "new\n"
    down.start()
    assert operator("apply", "--yes").code == 0
    assert down.at("/opt/note").read_text() == "new\n"


def test_when_no_machine_answers_on_the_first_run_that_is_all_it_says(operator: Operator, machine: Machine) -> None:
    machine.stop()
    operator.describe(machine)
    operator.playbook(NOTE)
    done = operator("apply", "--yes")
    assert done.code == 4
    assert "does not answer" in done.err
    assert not (operator.private.parent / "endpoints.toml").exists()


def test_a_failed_step_ends_its_machine_and_no_other(operator: Operator, machines: Callable[[str], Machine]) -> None:
    first, second = machines("a"), machines("b")
    operator.describe(first, second)
    operator.playbook(NOTE, FAILS | {"when": "host.name == 'b'"}, LATER)
    done = operator("apply", "--yes")
    assert done.code == 1
    assert "Breaks failed on b" in done.err
    assert "it is broken" in done.err
    assert first.at("/opt/later").exists()
    assert second.at("/opt/note").exists()
    assert not second.at("/opt/later").exists()
    wait_until(lambda: not second.at("/var/lib/qaicl-provision/holder").exists())  # the lock went with the run


def test_an_unsupported_distribution_is_named_and_left_alone(
    operator: Operator, machines: Callable[[str], Machine]
) -> None:
    good, odd = machines("a"), machines("b")
    (odd.root / "os-release").write_text("ID=gentoo\nVERSION_ID=2\n")
    operator.describe(good, odd)
    operator.playbook(NOTE)
    done = operator("apply", "--yes", "-o", "json")
    assert done.code == 1
    told = [event for event in _events(done.out) if event.get("host") == "b"]
    assert [(event["kind"], event["ok"]) for event in told] == [("host-done", False)]
    assert "gentoo 2" in told[0]["text"]
    assert good.at("/opt/note").exists()
    assert not odd.at("/opt/note").exists()


def test_a_plan_cannot_be_kept_where_nothing_can_be_written(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE)
    (operator.home / "file").write_text("")
    done = operator("plan", "--save", operator.home / "file" / "plan.json")
    assert done.code == 1
    assert "cannot write" in done.err


# --- plans ---------------------------------------------------------------------------------------------


def test_a_plan_says_what_why_and_how_to_take_it_back_and_changes_nothing(operator: Operator, machine: Machine) -> None:
    machine.at("/opt/note").write_text("old\n")
    operator.describe(machine)
    operator.playbook(NOTE, {"name": "Once", "command": {"run": "true", "unless": "false"}})
    done = operator("plan")
    assert done.code == 3
    assert "a: 2 to change, 0 as they should be" in done.out
    assert "site/note: /opt/note differs, for to have one\n" in done.out
    assert "      -old\n      +new\n" in done.out
    assert "site/once: its guard says so [irreversible]" in done.out
    dry = operator("apply", "--dry-run")
    assert (dry.code, dry.out) == (3, done.out)
    assert machine.at("/opt/note").read_text() == "old\n"


def test_after_apply_there_is_nothing_to_change_until_somebody_edits_a_file(
    operator: Operator, machine: Machine
) -> None:
    operator.describe(machine)
    operator.playbook(NOTE, LATER)
    assert operator("apply", "--yes").code == 0
    again = operator("plan")
    assert (again.code, again.err) == (0, "nothing to change\n")
    assert operator("apply", "--dry-run").code == 0
    machine.at("/opt/note").write_text("edited\n")
    edited = operator("plan")
    assert edited.code == 3
    assert "a: 1 to change, 1 as they should be" in edited.out
    assert operator("apply", "--yes").code == 0
    assert machine.at("/opt/note").read_text() == "new\n"


def test_a_saved_plan_is_carried_out_and_no_other(operator: Operator, machine: Machine) -> None:
    plan = operator.home / "plan.json"
    operator.describe(machine)
    operator.playbook(NOTE)
    assert operator("plan", "--save", plan).code == 3
    assert plan.stat().st_mode & 0o777 == 0o600

    operator.playbook(NOTE, LATER)  # somebody edits the playbook between the two
    done = operator("apply", plan, "--yes")
    assert done.code == 1
    assert "site/later would do something that the plan does not say" in done.err
    assert not machine.at("/opt/note").exists()

    operator.playbook(NOTE)
    assert operator("apply", plan, "--yes").code == 0
    assert machine.at("/opt/note").exists()
    assert operator("apply", plan, "--yes").code == 0  # done already: nothing else is done


def test_steps_of_the_same_name_do_not_make_a_saved_plan_stale(operator: Operator, machine: Machine) -> None:
    plan = operator.home / "plan.json"
    operator.describe(machine)
    operator.playbook(NOTE, LATER | {"name": "Note"})
    assert operator("plan", "--save", plan).code == 3
    assert operator("apply", plan, "--yes").code == 0
    assert machine.at("/opt/later").exists()


def test_what_is_no_plan_is_refused(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE)
    plan = operator.home / "plan.json"
    assert operator("apply", plan, "--yes").code == 2
    plan.write_text("{}")
    assert operator("apply", plan, "--yes").code == 2
    operator("plan", "--save", plan)
    assert operator("apply", plan, "--limit", "a", "--yes").code == 2
    plan.write_text(plan.read_text().replace("site/note", "site/none"))
    edited = operator("apply", plan, "--yes")
    assert (edited.code, "was edited" in edited.err) == (1, True)
    operator("plan", "--save", plan)
    operator.describe(machine, cluster="other")
    other = operator("apply", plan, "--yes")
    assert (other.code, "the plan is for the cluster 'demo'" in other.err) == (2, True)


def test_limit_and_tags_choose_machines_and_steps(operator: Operator, machines: Callable[[str], Machine]) -> None:
    first, second = machines("a"), machines("b")
    operator.describe(first, second)
    operator.playbook(NOTE, LATER | {"tags": ["late"]})
    assert operator("apply", "--yes", "--limit", "b", "--tags", "late").code == 0
    assert [path.name for path in second.at("/opt").iterdir()] == ["later"]
    assert list(first.at("/opt").iterdir()) == []


# --- what a program reads ------------------------------------------------------------------------------


def test_json_events_tell_the_run_from_beginning_to_end(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE)
    done = operator("apply", "--yes", "-o", "json")
    assert done.code == 0
    events = _events(done.out)
    assert {event["version"] for event in events} == {1}
    assert [event["kind"] for event in events] == [
        "connected",
        "locked",
        "planned",
        "run-started",
        "step-started",
        "step-done",
        "host-done",
        "context-written",
        "run-done",
    ]
    assert events[-1]["ok"] is True
    step = events[5]
    assert (step["host"], step["step"], step["name"], step["ok"]) == ("a", "site/note", "Note", True)


def test_a_failed_run_ends_with_an_event_that_says_so_and_an_error_in_json(
    operator: Operator, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["qaicl", "provision", "apply", "-o", "json"])
    operator.describe(machine)
    operator.playbook(FAILS)
    done = operator("apply", "--yes", "-o", "json")
    assert done.code == 1
    last = _events(done.out)[-1]
    assert (last["kind"], last["ok"]) == ("run-done", False)
    error = json.loads(done.err.splitlines()[-1])
    assert (error["error"], error["exit_code"]) == ("StepFailedError", 1)
    assert "it is broken" in error["why"]


def test_failed_checks_fail_the_run_and_its_last_event(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE, checks=[{"name": "room", "check": "disk", "limit": 1e9, "fix": "buy a larger disk"}])
    done = operator("apply", "--yes", "-o", "json")
    assert done.code == 1
    assert "buy a larger disk" in done.err
    events = _events(done.out)
    assert [(event["kind"], event["ok"]) for event in events[-2:]] == [("check", False), ("run-done", False)]


def test_a_plan_in_json_is_one_versioned_document(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(NOTE)
    for done in (operator("plan", "-o", "json"), operator("apply", "--dry-run", "-o", "json")):
        assert done.code == 3
        document = json.loads(done.out)
        assert (document["version"], document["cluster"]) == (1, "demo")
        (change,) = document["hosts"][0]["changes"]
        assert (change["id"], change["operation"], change["undo"]) == ("site/note", "file", ["rm -f /opt/note"])


# --- looking, and letting go -----------------------------------------------------------------------------


def test_status_tells_what_is_reachable_and_where_the_last_run_stood(
    operator: Operator, machines: Callable[[str], Machine]
) -> None:
    first, second = machines("a"), machines("b")
    operator.describe(first, second)
    operator.playbook(FAILS | {"when": "host.name == 'a'"}, NOTE)
    operator("apply", "--yes")
    second.stop()
    done = operator("status", "-o", "json")
    assert done.code == 0
    rows = {row["host"]: row for row in json.loads(done.out)["items"]}
    assert (rows["a"]["reachable"], rows["a"]["last_state"], rows["a"]["locked_by"]) == (True, "run-failed", "")
    assert "it is broken" in rows["a"]["last_text"]
    assert (rows["b"]["reachable"], rows["b"]["last_state"]) == (False, "run-done")
    text = operator("status")
    assert "no: " in text.out


def test_a_run_that_was_killed_is_shown_with_its_step(operator: Operator, machine: Machine) -> None:
    from qaicl.provision.journal import Journal

    operator.describe(machine)
    journal = Journal(operator.journals, "a", "run")
    journal.write("run-started")
    journal.write("started", "site/note")
    row = json.loads(operator("status", "-o", "json").out)["items"][0]
    assert (row["last_state"], row["last_step"]) == ("interrupted", "site/note")


def test_two_controllers_and_the_way_out(operator: Operator, machine: Machine) -> None:
    from qaicl.provision import lock, ssh

    operator.describe(machine)
    operator.playbook(NOTE)
    with ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as other:
        lock.acquire(other)
        done = operator("apply", "--yes")
        assert done.code == 1
        assert "a is being provisioned by another controller" in done.err
        assert f"process {lock.me().pid}" in done.err
        assert "qaicl provision unlock" in done.err
        assert not machine.at("/opt/note").exists()
        assert operator("plan").code == 3  # looking needs no lock
        assert f"process {lock.me().pid}" in operator("status").out
        freed = operator("unlock", "--yes")
        assert (freed.code, freed.out.startswith("a: taken from root@")) == (0, True)
        assert operator("apply", "--yes").code == 0
    assert json.loads(operator("unlock", "--yes", "-o", "json").out)["items"] == [{"host": "a", "was_held_by": ""}]


def test_unlock_tells_what_it_took_also_where_another_machine_is_off(
    operator: Operator, machines: Callable[[str], Machine]
) -> None:
    off, on = machines("a"), machines("b")
    off.stop()
    operator.describe(off, on)
    done = operator("unlock", "--yes")
    assert (done.code, done.out) == (4, "b: was not locked\n")
    assert "a (" in done.err


def test_verify_names_each_failure_with_its_fix(operator: Operator, machine: Machine) -> None:
    machine.fake("systemctl", "echo failed; exit 3")
    machine.fake("redis-cli", "echo role:master")
    operator.describe(machine)
    done = operator("verify")
    assert done.code == 1
    assert "journalctl -u 'qaicl-*'" in done.out
    rows = json.loads(operator("verify", "-o", "json").out)["items"]
    daemons = next(row for row in rows if row["check"] == "daemons run")
    assert (daemons["ok"], daemons["host"]) == (False, "a")
    gpu = next(row for row in rows if row["check"] == "GPU computes")
    assert (gpu["ok"], gpu["found"]) == (None, "no NVIDIA device, skipped")


# --- gathering -----------------------------------------------------------------------------------------


def test_the_bundle_is_told_in_json_and_read_again_on_demand(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    done = operator("bundle", "-o", "json", "--verify")
    assert done.code == 0
    assert json.loads(done.out)["release"].startswith("0.1.0-")
    wheel = next((operator.home / "data/bundles/demo/wheels").glob("rich-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    damaged = operator("bundle", "--verify")
    assert damaged.code == 1
    assert wheel.name in damaged.err


def test_a_damaged_model_is_found_before_it_is_pushed(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    (operator.home / "data/models/tiny/config.json").write_text("[]")
    done = operator("bundle", "--verify")
    assert done.code == 1
    assert "config.json" in done.err
    assert "qaicl model pull tiny" in done.err


# --- beginning -----------------------------------------------------------------------------------------


def test_init_writes_a_valid_inventory_and_does_not_replace_one(operator: Operator, tmp_path: Path) -> None:
    from qaicl.provision.inventory import load

    path = tmp_path / "new.yaml"
    assert operator("init", path).code == 0
    assert len(load(path).hosts) == 3
    path.write_text("mine")
    refused = operator("init", path)
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert path.read_text() == "mine"
    replaced = operator("init", path, "--force", "-o", "json")
    assert json.loads(replaced.out) == {"version": 1, "written": str(path)}
    nowhere = operator("init", tmp_path / "none" / "cluster.yaml")
    assert (nowhere.code, "cannot write" in nowhere.err) == (1, True)
