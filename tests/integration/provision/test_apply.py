"""Carrying a plan out: steps that fail, that are taken back, that are waited for, and reboots between them."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from pretend import Machine, Run, wait_until

from qaicl.errors import (
    HostRefusedError,
    HostUnreachableError,
    InventoryError,
    LockedError,
    ModelError,
    ProvisionError,
    StepFailedError,
)
from qaicl.provision import lock, ssh
from qaicl.provision.apply import Outcome, verdict
from qaicl.provision.secrets import SecretStore


def _note(path: str) -> dict[str, dict[str, str]]:
    return {"file": {"path": path, "content": "x"}}


def _do(run: str) -> dict[str, dict[str, str]]:
    return {"command": {"run": run, "unless": "false"}}


# --- steps that fail -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why", "fix"),
    [
        ("cp: error writing 'x': No space left on device", "its disk is full", "free some space"),
        ("E: Failed to fetch http://m/x  404", "mirror does not answer properly", "sources.list"),
        ("W: Temporary failure resolving 'mirror.example.org'", "mirror does not answer", "sources.list"),
        ("E: Unable to locate package redis", "does not have the package", "sources.list"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "wrong checksum", "bundle --verify"),
        ("something else", "something else", "goes on where it was"),
        ("", "exit status 7", "goes on where it was"),
    ],
)
def test_a_failure_is_told_with_its_meaning_and_what_to_do(carry_out: Run, said: str, why: str, fix: str) -> None:
    (outcome,) = carry_out(_note("/opt/one"), _do(f'echo "{said}" >&2; exit 7'), _note("/opt/two"))
    assert isinstance(outcome.error, StepFailedError)
    assert outcome.error.what == "Step 1 failed on a"
    assert why in outcome.error.why
    assert fix in outcome.error.fix
    assert [entry.step.id for entry in outcome.done] == ["s/0"]


def test_the_journal_tells_what_was_begun_done_and_failed_without_secrets(carry_out: Run, machine: Machine) -> None:
    carry_out(_note("/opt/one"), _do("echo the password is hunter22 >&2; exit 1"), _note("/opt/two"))
    assert [(state, step) for state, step, _ in carry_out.journal()] == [
        ("run-started", ""),
        ("started", "s/0"),
        ("done", "s/0"),
        ("started", "s/1"),
        ("failed", "s/1"),
        ("run-failed", ""),
    ]
    texts = (carry_out.journals / "a.jsonl").read_text()
    assert "the password is <secret password>" in texts
    assert "hunter22" not in texts
    assert all("hunter22" not in event.text for event in carry_out.events)
    assert not machine.at("/opt/two").exists()


def test_a_step_that_fails_in_the_middle_is_taken_back(carry_out: Run, machine: Machine) -> None:
    unit = {"unit": {"name": "x.service", "content": "[Unit]\n"}}
    machine.fake("systemctl", f"[ -e {machine.root}/run/second ] && exit 0; : > {machine.root}/run/second; exit 1")
    (outcome,) = carry_out(unit)
    assert isinstance(outcome.error, StepFailedError)
    assert not (machine.root / "units/x.service").exists()
    assert ("undone", "s/0", "") in carry_out.journal()


def test_what_cannot_be_taken_back_is_not_called_undone(carry_out: Run, machine: Machine) -> None:
    machine.fake("systemctl", "echo no bus >&2; exit 1")
    (outcome,) = carry_out({"unit": {"name": "x.service", "content": "[Unit]\n"}})
    assert isinstance(outcome.error, StepFailedError)
    states = [(state, text) for state, _, text in carry_out.journal()]
    assert "undone" not in [state for state, _ in states]
    assert ("failed", "not taken back: s/0 (no bus)") in states


def test_a_command_that_falls_silent_is_given_up(carry_out: Run) -> None:
    from qaicl.provision.operations.base import Change, Command
    from qaicl.provision.plan import HostPlan, PlannedStep

    (outcome,) = carry_out(_do("true"))
    entry = outcome.done[0]
    silent = PlannedStep(entry.step, Change("", (Command("sleep 60", timeout=0.3),)))
    machine = carry_out.session.machines[0]
    from qaicl.provision import apply

    (given_up,) = apply.run(
        carry_out.session, [HostPlan("a", machine.facts, (silent,))], carry_out.journals, "run", lambda text: text
    )
    assert isinstance(given_up.error, HostUnreachableError)
    assert "no sign of life" in given_up.error.why


def test_a_machine_that_goes_off_in_the_middle_does_not_answer(carry_out: Run, machine: Machine) -> None:
    def cut() -> None:
        wait_until(lambda: machine.at("/opt/begun").exists())
        machine.stop()

    thread = threading.Thread(target=cut)
    thread.start()
    (outcome,) = carry_out(_do("touch /opt/begun; sleep 60"), _note("/opt/two"))
    thread.join()
    assert isinstance(outcome.error, HostUnreachableError)
    assert outcome.error.exit_code == 4
    assert carry_out.journal()[-1][0] == "run-failed"


# --- one after the other -----------------------------------------------------------------------------------


def test_what_a_step_leaves_in_the_background_does_not_hold_up_the_next(carry_out: Run, machine: Machine) -> None:
    (outcome,) = carry_out(_do("sleep 60 </dev/null >/dev/null 2>&1 &"), _note("/opt/two"))
    assert outcome.error is None
    assert machine.at("/opt/two").exists()


def test_a_step_reads_nothing_of_what_follows_it_in_its_script(carry_out: Run, machine: Machine) -> None:
    (outcome,) = carry_out(_do("cat > /opt/read\necho after > /opt/after"))
    assert outcome.error is None
    assert machine.at("/opt/read").read_text() == ""
    assert machine.at("/opt/after").read_text() == "after\n"


def test_a_step_that_a_killed_controller_left_running_comes_to_its_end_first(carry_out: Run, machine: Machine) -> None:
    with ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as killed:
        script = "touch /opt/begun; until [ -e /opt/go ]; do sleep 0.05; done; echo first >> /opt/order"
        killed.start(lock.guarded(script), b"")
        wait_until(lambda: machine.at("/opt/begun").exists())
    threading.Timer(0.3, machine.at("/opt/go").touch).start()
    (outcome,) = carry_out(_do("echo second >> /opt/order"))
    assert outcome.error is None
    assert machine.at("/opt/order").read_text() == "first\nsecond\n"


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])  # bash becomes what it runs
def test_a_run_whose_lock_was_taken_does_nothing_more(machine: Machine, tmp_path: Path, shell: str) -> None:
    passwd = machine.root / "passwd"
    passwd.write_text(passwd.read_text().replace("/home/root:/bin/sh", f"/home/root:{shell}"))
    carry_out = Run(tmp_path / "journals", [machine], SecretStore({}, tmp_path / "secrets"))

    def take() -> None:
        wait_until(lambda: machine.at("/opt/begun").exists())
        with ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as other:
            assert lock.break_lock(other)
        machine.at("/opt/go").touch()

    thread = threading.Thread(target=take)
    thread.start()
    (outcome,) = carry_out(_do("touch /opt/begun; until [ -e /opt/go ]; do sleep 0.05; done"), _note("/opt/two"))
    thread.join()
    carry_out.session.close()
    assert isinstance(outcome.error, LockedError)
    assert "taken away" in outcome.error.what
    assert not machine.at("/opt/two").exists()


@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_step_complains_in_english_and_keeps_the_rest_of_the_locale(tmp_path: Path, all_of_it: bool) -> None:
    script = lock.guarded('echo "$LC_ALL $LC_MESSAGES $LANGUAGE $LANG"').replace(lock.STATE, str(tmp_path))
    german = {"LANGUAGE": "de", ("LC_ALL" if all_of_it else "LANG"): "de_DE.UTF-8", "PATH": "/usr/bin:/bin"}
    said = subprocess.run(["sh", "-s"], input=script, env=german, capture_output=True, text=True, check=True).stdout
    assert said == " C  de_DE.UTF-8\n"


# --- reboots -------------------------------------------------------------------------------------------------

REBOOT = {"reboot": {"once": "kernel", "timeout": 20}}


def test_the_run_goes_on_after_a_reboot_and_reboots_once(carry_out: Run, machine: Machine) -> None:
    machine.reboots()
    (outcome,) = carry_out(_note("/opt/one"), REBOOT, _note("/opt/two"))
    assert outcome.error is None
    assert machine.boots == 2
    assert machine.at("/opt/two").exists()
    states = [state for state, _, _ in carry_out.journal()]
    assert states.index("rebooting") < states.index("rebooted")
    assert carry_out.session.machines[0].held is not None
    assert lock.held_by(carry_out.session.machines[0].connection)
    (again,) = carry_out(REBOOT)
    assert (again.error, again.done, machine.boots) == (None, (), 2)


def test_a_machine_that_lets_nobody_in_for_a_while_is_waited_for(carry_out: Run, machine: Machine) -> None:
    authorized = machine.root / "authorized"
    hidden = authorized.rename(machine.root / "hidden")
    authorized.write_text("")  # the session's connection stands; new ones are refused

    def let_in() -> None:
        wait_until(lambda: machine.boots == 2 and "Connection closed by authenticating user" in machine.log)
        hidden.rename(authorized)

    machine.reboots()
    thread = threading.Thread(target=let_in)
    thread.start()
    (outcome,) = carry_out(REBOOT, _note("/opt/two"))
    thread.join()
    assert outcome.error is None
    assert machine.at("/opt/two").exists()


def test_a_machine_that_does_not_come_back_is_named(carry_out: Run, machine: Machine) -> None:
    machine.fake("systemctl", "kill 1")
    (outcome,) = carry_out({"reboot": {"once": "kernel", "timeout": 0.5}}, _note("/opt/two"))
    assert isinstance(outcome.error, HostUnreachableError)
    assert "has not come back" in outcome.error.why
    assert not machine.at("/opt/two").exists()


def test_another_machine_under_the_same_address_is_refused_at_once(carry_out: Run, machine: Machine) -> None:
    config = machine.root / "config"
    config.write_text(config.read_text().replace(str(machine.keys.host), str(machine.keys.other)))
    machine.reboots()
    (outcome,) = carry_out({"reboot": {"once": "kernel", "timeout": 60}})
    assert isinstance(outcome.error, HostRefusedError)
    assert outcome.error.exit_code == 5
    assert outcome.seconds < 30


# --- locks ---------------------------------------------------------------------------------------------------


def test_a_machine_that_cannot_keep_a_lock_says_so(machine: Machine) -> None:
    machine.inside("mkdir /var/lib/qaicl-provision; mount -t tmpfs -o ro none /var/lib/qaicl-provision")
    with (
        ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as connection,
        pytest.raises(ProvisionError, match="cannot keep a lock") as caught,
    ):
        lock.acquire(connection)
    assert not isinstance(caught.value, LockedError)
    assert "Read-only" in caught.value.why


def test_a_lock_whose_holder_left_no_word_is_still_a_lock(carry_out: Run, machine: Machine) -> None:
    machine.at("/var/lib/qaicl-provision/holder").write_text("")
    with ssh.Connection.open(machine.host, timeout=5.0, sudo_password=lambda: None) as other:
        with pytest.raises(LockedError, match="not said by whom"):
            lock.acquire(other)
        assert lock.held_by(other) == "somebody"


def test_of_two_machines_one_locked_keeps_none(tmp_path: Path, machine: Machine, carry_out: Run) -> None:
    second = Run.__new__(Run)
    with pytest.raises(LockedError):
        Run.__init__(second, tmp_path / "other", [machine], carry_out.session.secrets)
    assert second.session.closed


# --- one verdict for all ---------------------------------------------------------------------------------------


def test_the_verdict_names_every_machine_and_takes_the_gravest_code() -> None:
    failed, gone = StepFailedError("s failed", why="w"), HostUnreachableError("b is off", why="no route", fix="f")
    refused = HostRefusedError("c is not c", fix="g")
    assert verdict({}, [Outcome("a", (), 0.0)]) is None
    assert verdict({"b": gone}, []) is gone
    assert verdict({}, [Outcome("a", (), 0.0, failed)]) is failed
    both = verdict({"b": gone}, [Outcome("a", (), 0.0, failed)])
    assert both is not None
    assert (both.exit_code, both.what, both.fix) == (4, "2 machines are not done", "f")
    assert both.why == "b: b is off (no route); a: s failed (w)"
    worst = verdict({"b": gone, "c": refused}, [])
    assert worst is not None and worst.exit_code == 5
    usage = verdict({"a": InventoryError("x"), "b": InventoryError("y")}, [])
    assert usage is not None and usage.exit_code == 2
    other = verdict({"a": ModelError("x")}, [])
    assert isinstance(other, ProvisionError) and "a: x" in other.why
