"""The plan: questions that travel together, and a file that is carried out as it was read or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from qaicl.errors import PlaybookError, ProvisionError, StalePlanError, UsageError
from qaicl.provision import plan
from qaicl.provision.facts import Facts
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.operations.base import BundleFile, Change, Command, Found, Probe, Reboot, Upload
from qaicl.provision.playbook import Skipped, Step

KEY = b"the operator's"


def _ask(probes: list[Probe]) -> dict[str, Found]:
    script, keys = plan.probe_script(probes)
    done = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True)
    return plan.parse_probes(done.stdout, keys)


def _step(step_id: str, run: str, **more: object) -> Step:
    operation = OPERATIONS["command"]
    arguments = msgspec.convert({"run": run, "unless": "false", **more}, operation.arguments)
    return Step(step_id, "book", step_id, "", operation, arguments, ())


def _plan_host(*steps: Step | Skipped, host: str = "a", status: int = 1) -> plan.HostPlan:
    found = {probe.key: Found(status) for probe in plan.step_probes(steps)}
    return plan.plan_host(host, Facts(), steps, found)


def _saved(*plans: plan.HostPlan) -> plan.SavedPlan:
    document = plan.SavedPlan(
        cluster="demo",
        inventory="/i",
        playbook="site",
        limit=[],
        tags=[],
        hosts=[plan.saved_host(entry, lambda text: text.replace("hunter22", "***"), KEY) for entry in plans],
    )
    return msgspec.structs.replace(document, digest=document.computed_digest())


# --- questions -----------------------------------------------------------------------------------------


def test_every_question_is_answered_whatever_the_others_do() -> None:
    found = _ask(
        [
            Probe("leaves", "echo before; exit 7; echo after"),
            Probe("talks", "echo out; echo err >&2"),
            Probe("reads", "cat; echo read"),
            Probe("bytes", "printf 'a\\377\\nb\\n\\n'"),
            Probe("nothing", "true"),
            Probe("moves", "cd /; x=1; set -e"),
            Probe("stays", 'pwd; echo "x$x"'),
        ]
    )
    assert found["leaves"] == Found(7, "before")
    assert found["talks"] == Found(0, "out")
    assert found["reads"] == Found(0, "read")
    assert found["bytes"] == Found(0, "a�\nb")
    assert found["nothing"] == Found(0, "")
    assert found["stays"].stdout.splitlines() == [str(Path.cwd()), "x"]


def test_a_question_is_asked_once_however_many_steps_ask_it() -> None:
    script, keys = plan.probe_script([Probe("k", "echo asked"), Probe("k", "echo asked"), Probe("l", "true")])
    assert keys == ["k", "l"]
    assert script.count("echo asked") == 1


@pytest.mark.parametrize("output", ["", "0 \n", "0 \n0 \n0 \n"])
def test_answers_that_are_missing_are_an_error(output: str) -> None:
    with pytest.raises(PlaybookError, match="did not answer every question"):
        plan.parse_probes(output, ["a", "b"])


def test_a_step_knows_what_those_before_it_will_change() -> None:
    first = _step("first", "a", touches=["/etc/x"])
    second = _step("second", "b", unless="true", after=["/etc/x"])
    found = {"guard:false": Found(1), "guard:true": Found(0)}
    both = plan.plan_host("a", Facts(), [first, second], found)
    assert [entry.change.reason for entry in both.changes if entry.change] == ["its guard says so", "/etc/x changes"]
    assert plan.plan_host("a", Facts(), [second], found).changes == ()


# --- the file ------------------------------------------------------------------------------------------


def test_a_plan_is_read_back_as_it_was_written_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    saved = _saved(_plan_host(_step("s", "do", undo="undo"), Skipped("t", "book", "t", "no GPU", ())))
    plan.write(path, saved)
    assert plan.read(path) == saved
    assert path.stat().st_mode & 0o777 == 0o600
    (host,) = saved.hosts
    assert (host.unchanged, host.skipped) == (0, [{"id": "t", "reason": "no GPU"}])
    assert host.changes[0].undo == ["undo"]


def test_a_plan_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(ProvisionError, match="cannot write"):
        plan.write(tmp_path / "plan.json", _saved())
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff"])
def test_what_is_no_plan_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(UsageError, match="is not a plan"):
        plan.read(tmp_path / "p")
    with pytest.raises(UsageError, match="cannot read"):
        plan.read(tmp_path / "none")


def test_an_edited_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    plan.write(path, _saved(_plan_host(_step("s", "do"))))
    path.write_text(path.read_text().replace("its guard says so", "it is harmless"))
    with pytest.raises(StalePlanError, match="was edited"):
        plan.read(path)


def test_secrets_are_not_in_the_document() -> None:
    step = _step("s", "cat > /f; echo hunter22", stdin="hunter22", undo="rm hunter22", reason="hunter22")
    assert b"hunter22" not in msgspec.json.encode(_saved(_plan_host(step)))


# --- the plan and the machines ---------------------------------------------------------------------------


def test_what_is_done_already_may_be_missing() -> None:
    saved = _saved(_plan_host(_step("one", "a"), _step("two", "b")))
    plan.check_against(saved, [_plan_host(_step("two", "b"))], KEY)
    plan.check_against(saved, [], KEY)


@pytest.mark.parametrize(
    "now",
    [
        _plan_host(_step("two", "b")),  # another step
        _plan_host(_step("one", "A")),  # another command
        _plan_host(_step("one", "a", stdin="x")),  # another content
        _plan_host(_step("one", "a"), host="b"),  # another machine
    ],
)
def test_anything_else_is_refused(now: plan.HostPlan) -> None:
    saved = _saved(_plan_host(_step("one", "a")))
    with pytest.raises(StalePlanError) as caught:
        plan.check_against(saved, [now], KEY)
    assert caught.value.exit_code == 1
    assert "qaicl provision plan" in caught.value.fix


def test_a_password_cannot_be_tried_on_a_plan_without_the_key() -> None:
    change = Change("", (Command("chpasswd", stdin=b"winter2026"),))
    assert plan.change_digest(change, KEY) != plan.change_digest(change, b"a guess")
    with pytest.raises(StalePlanError):
        plan.check_against(_saved(_plan_host(_step("one", "a"))), [_plan_host(_step("one", "a"))], b"another's")


def test_the_digest_tells_actions_apart() -> None:
    file = BundleFile("n", 1, "1" * 64)
    actions = [
        Command("a"),
        Command("b"),
        Command("a", stdin=b"x"),
        Reboot(1.0),
        Reboot(1.0, "/marker"),
        Upload("/d", (file,), (file,), "/m", "root", "root"),
        Upload("/e", (file,), (file,), "/m", "root", "root"),
        Upload("/d", (BundleFile("n", 1, "2" * 64),), (file,), "/m", "root", "root"),
        Upload("/d", (file,), (file,), "/m", "qaicl", "root"),
        Upload("/d", (file,), (file,), "/m", "root", "qaicl"),
    ]
    digests = [plan.change_digest(Change("", (action,)), KEY) for action in actions]
    assert len(set(digests)) == len(actions)
    two = plan.change_digest(Change("", (Command("a"), Command("b"))), KEY)
    assert two not in (*digests, plan.change_digest(Change("", (Command("b"), Command("a"))), KEY))
