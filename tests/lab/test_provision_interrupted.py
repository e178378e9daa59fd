"""A run that is broken off, by whatever, is taken up where it was."""

from __future__ import annotations

import json

import pytest
from harness.lab import Lab
from harness.operator import Operator, seen

pytestmark = pytest.mark.lab

# The five moments at which the controller dies: the step that has just begun on one host.
MOMENTS = ("base/base-packages", "python/wheels", "python/environment", "redis/redis-settings", "qaicl/unit")


def test_a_controller_killed_at_five_moments_ends_right(bare: Lab, operator: Operator) -> None:
    reached = []
    for moment in MOMENTS:
        running = operator.start(*operator.apply_words())
        with running:
            for event in seen(running, "step-started"):
                if event["step"].startswith(moment):
                    reached.append(moment)
                    break
            running.kill()
    assert reached == list(MOMENTS)
    operator.apply().expect(0)
    operator.plan().expect(0)
    assert operator.answers()
    for name in bare.machines:
        left = bare.ssh(name, "ls -A /var/lib/qaicl-staging 2>/dev/null; dpkg --audit; find /opt /etc -name '*.part'")
        assert left.stdout == "", name


def test_a_step_that_reboots_the_machine_does_not_end_the_run(bare: Lab, operator: Operator) -> None:
    playbooks = operator.home / "playbooks"
    playbooks.mkdir()
    (playbooks / "again.yaml").write_text(
        "about: A reboot in the middle.\n"
        "steps:\n"
        "  - name: Before\n"
        '    file: {path: /etc/before, content: "1\\n"}\n'
        "  - name: Boot anew\n"
        "    reboot: {once: test, timeout: 120}\n"
        "  - name: After\n"
        '    file: {path: /etc/after, content: "2\\n"}\n'
    )
    operator.write_inventory({"playbook": "again"})
    started = {name: machine.started() for name, machine in bare.machines.items()}
    done = operator.apply("--playbooks", str(playbooks)).expect(0)
    assert {event["host"] for event in done.events if event["kind"] == "rebooted"} == set(bare.machines)
    for name, machine in bare.machines.items():
        assert machine.started() != started[name]
        assert bare.ssh(name, "cat /etc/before /etc/after").stdout == "1\n2\n"
    operator.plan("--playbooks", str(playbooks)).expect(0)  # it is not asked for again


def test_a_plan_is_carried_out_as_it_was_saved_and_no_other(bare: Lab, operator: Operator) -> None:
    saved = operator.home / "plan.json"
    operator.plan("--tags", "base", "--save", str(saved)).expect(3)
    bare.ssh("vm1", "apt-get -q update && apt-get -q -y install --no-install-recommends nftables")
    done = operator.apply(str(saved)).expect(1)
    assert "vm1" in done.tail
    edited = json.loads(saved.read_text()) | {"tags": []}
    saved.write_text(json.dumps(edited))
    assert "edited" in operator.apply(str(saved)).expect(1).tail
