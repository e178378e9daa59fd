"""Playbooks: what is wrong is said with its step; what is right becomes steps for a host."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from qaicl.errors import PlaybookError, SecretError
from qaicl.provision.facts import Facts
from qaicl.provision.inventory import Host
from qaicl.provision.playbook import Playbooks, Skipped, Step, selected, shipped
from qaicl.provision.secrets import SecretStore
from qaicl.provision.variables import SecretView

HOST = Host("a", "10.0.0.1", "10.0.0.1", 22, "root", "/k", "", ("standby", "node"))
VARIABLES: dict[str, Any] = {
    "host": HOST,
    "facts": Facts(os="debian"),
    "packages": "mirror",
    "size": 3,
    "names": ["x", "y"],
}


def _books(tmp_path: Path, **books: Any) -> Playbooks:
    (tmp_path / "templates").mkdir(exist_ok=True)
    for name, data in books.items():
        text = data if isinstance(data, str) else yaml.safe_dump({"about": "a test", **data}, sort_keys=False)
        (tmp_path / f"{name}.yaml").write_text(text)
    return Playbooks(tmp_path)


def _steps(tmp_path: Path, *entries: dict[str, Any], **more: Any) -> list[Step | Skipped]:
    return _books(tmp_path, site={"steps": list(entries), **more}).steps("site", HOST, VARIABLES)


def _file(content: str, **more: Any) -> dict[str, Any]:
    return {"name": "File", "file": {"path": "/f", "content": content}, **more}


# --- what is wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "None is not of type"),
        ("about: [", "expected"),
        ("about: x\nsteps: [{name: x}]", "steps/0"),
        ("about: x\nsteps: [{name: x, fiel: {}}]", "fiel"),
        ("about: x\nsteps: [{name: x, file: {}, line: {}}]", "steps/0"),
        ("about: x\nroles: [king]", "king"),
    ],
)
def test_a_file_that_is_no_playbook_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PlaybookError) as caught:
        _books(tmp_path, site=text).steps("site", HOST, VARIABLES)
    assert caught.value.exit_code == 2
    assert str(tmp_path / "site.yaml") in caught.value.what
    assert words in caught.value.why


def test_a_playbook_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_bytes(b"about: \xff\n")
    with pytest.raises(PlaybookError, match="is not YAML"):
        Playbooks(tmp_path).read("site")


def test_a_missing_playbook_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(PlaybookError, match="no playbook 'other'") as caught:
        _books(tmp_path, site={"include": ["other"]}).steps("site", HOST, VARIABLES)
    assert "has site" in caught.value.why


def test_a_playbook_that_includes_itself_is_refused(tmp_path: Path) -> None:
    books = _books(tmp_path, one={"include": ["two"]}, two={"include": ["one"]})
    with pytest.raises(PlaybookError) as caught:
        books.steps("one", HOST, VARIABLES)
    assert caught.value.why == "one → two → one"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (_file("{{ unknown }}"), "'unknown' is undefined"),
        (_file("a {{ unknown }} b"), "'unknown' is undefined"),
        (_file("{{ facts.colour }}"), "colour"),
        (_file("{{ size + 'x' }}"), "unsupported operand"),
        (_file("is {{ size // 0 }}"), "zero"),
        (_file("{{ names[7] }}"), "names"),
        (_file("{{ size"), "in '{{ size'"),
        (_file("{{ size }}"), "file: Expected `str`"),
        (_file("x", when="unknown"), "'unknown' is undefined"),
        (_file("x", when="size +"), "size +"),
        (_file("x", each="{{ size }}"), "3 is not a list"),
        (_file("x", each="names"), "'names' is not a list"),
        ({"name": "File", "file": {"path": "f"}}, "regex '^/'"),
        ({"name": "File", "file": {"path": "/f", "mode": "644"}}, "mode"),
        ({"name": "File", "file": {"path": "/f", "colour": "red"}}, "unknown field `colour`"),
        ({"name": "File", "line": {"path": "/f", "line": "x", "match": "("}}, "regular expression"),
        ({"name": "File", "package": {"names": []}}, "length"),
    ],
)
def test_a_wrong_step_is_named_with_its_reason(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(PlaybookError) as caught:
        _steps(tmp_path, entry)
    assert "site/file" in caught.value.what
    assert words in caught.value.why


def test_a_wrong_template_is_named_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    for text in ("{{ unknown }}", "{% if %}", "{{ size + 'x' }}"):
        (tmp_path / "templates/t.j2").write_text(text)
        with pytest.raises(PlaybookError, match=r"the template t\.j2 of step site/file is wrong"):
            _steps(tmp_path, {"name": "File", "template": {"path": "/f", "template": "t.j2"}})
    with pytest.raises(PlaybookError, match=r"the template none\.j2"):
        _steps(tmp_path, {"name": "File", "template": {"path": "/f", "template": "none.j2"}})


def test_a_secret_that_leads_nowhere_stays_an_error_about_the_secret(tmp_path: Path) -> None:
    store = SecretStore({"x": "env:NOT_SET"}, tmp_path, environ={})
    with pytest.raises(SecretError, match="'x' is not there"):
        _books(tmp_path, site={"steps": [_file("{{ secrets.x }}")]}).steps(
            "site", HOST, {**VARIABLES, "secrets": SecretView(store)}
        )


# --- what is right -----------------------------------------------------------------------------------------


def test_a_value_that_is_one_expression_keeps_its_type(tmp_path: Path) -> None:
    step, other = _steps(
        tmp_path,
        {"name": "Packages", "package": {"names": "{{ names }}"}},
        {"name": "Wait", "wait_for": {"until": "test {{ size }} = {{ size }}", "what": "x", "timeout": "{{ size }}"}},
    )
    assert isinstance(step, Step) and isinstance(other, Step)
    assert step.arguments.names == ["x", "y"]
    assert (other.arguments.until, other.arguments.timeout) == ("test 3 = 3", 3)


def test_a_template_keeps_its_last_newline_and_knows_the_digest_filter(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/t.j2").write_text("{% for n in names %}\n{{ n }}\n{% endfor %}\n{{ 'a' | sha256 }}\n")
    (step,) = _steps(tmp_path, {"name": "File", "template": {"path": "/f", "template": "t.j2"}})
    assert isinstance(step, Step)
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert step.arguments.content == f"x\ny\n{digest}\n"


def test_roles_and_conditions_say_why_a_step_does_not_apply(tmp_path: Path) -> None:
    steps = _steps(
        tmp_path,
        _file("x", name="Only Redis", roles=["redis"]),
        _file("x", name="A standby is an orchestrator", roles=["orchestrator"]),
        _file("x", name="Ubuntu", when="facts.os == 'ubuntu'", otherwise="not Ubuntu"),
        _file("x", name="Big", when="size > 5"),
    )
    told = [(step.id, step.reason if isinstance(step, Skipped) else "") for step in steps]
    assert told == [
        ("site/only-redis", "not for a host that is standby, node"),
        ("site/a-standby-is-an-orchestrator", ""),
        ("site/ubuntu", "not Ubuntu"),
        ("site/big", "not so: size > 5"),
    ]


def test_each_makes_a_step_an_item_and_every_step_has_an_id_of_its_own(tmp_path: Path) -> None:
    steps = _steps(
        tmp_path,
        {"name": "Note", "each": "{{ names }}", "file": {"path": "/{{ item }}"}},
        {"name": "Note", "each": ["x"], "file": {"path": "/again"}},
        {"name": "None", "each": [], "file": {"path": "/n"}},
        {"name": "Daemon", "each": [{"name": "d"}], "file": {"path": "/{{ item.name }}"}},
    )
    assert [step.id for step in steps] == ["site/note:x", "site/note:y", "site/note:x#2", "site/daemon:d"]
    assert [step.name for step in steps] == ["Note (x)", "Note (y)", "Note (x)", "Daemon (d)"]
    assert [step.arguments.path for step in steps if isinstance(step, Step)] == ["/x", "/y", "/again", "/d"]


def test_tags_are_the_playbooks_name_and_those_it_gives(tmp_path: Path) -> None:
    books = _books(
        tmp_path,
        site={"include": ["one"], "steps": [_file("x")]},
        one={"tags": ["early"], "steps": [_file("x", tags=["late"])]},
    )
    steps = books.steps("site", HOST, VARIABLES)
    chosen = {tag: [step.id for step in steps if selected(step, (tag,))] for tag in ("site", "one", "early", "late")}
    assert chosen == {"site": ["site/file"], "one": ["one/file"], "early": ["one/file"], "late": ["one/file"]}
    assert all(selected(step, ()) for step in steps)


def test_checks_come_from_all_included_playbooks(tmp_path: Path) -> None:
    check = {"name": "room", "check": "disk", "fix": "make some", "limit": 2}
    books = _books(tmp_path, site={"include": ["one"], "checks": [check]}, one={"checks": [check | {"check": "gpu"}]})
    assert [(found.kind, found.limit) for found in books.checks("site")] == [("disk", 2.0), ("gpu", 2.0)]


def test_the_shipped_playbooks_fit_their_schema() -> None:
    books = Playbooks(shipped())
    names = {path.stem for path in shipped().glob("*.yaml")}
    assert names >= {"base", "gpu", "python", "redis", "postgres", "firewall", "models", "qaicl", "checks", "site"}
    for name in names:
        books.read(name)
    kinds = {check.kind for check in books.checks("site")}
    assert kinds == {"gpu", "model", "daemons", "network", "redis", "clock", "time-sync", "disk"}


@pytest.mark.parametrize("os", ["debian", "ubuntu"])
def test_the_gpu_playbook_applies_where_there_is_such_a_device(os: str) -> None:
    books = Playbooks(shipped())
    without = books.steps("gpu", HOST, {**VARIABLES, "facts": Facts(os=os)})
    assert {step.reason for step in without if isinstance(step, Skipped)} == {"no NVIDIA device, skipped"}
    facts = Facts(os=os, arch="aarch64", pci_vendors=("0x8086", "0x10de"))
    steps = [step for step in books.steps("gpu", HOST, {**VARIABLES, "facts": facts}) if isinstance(step, Step)]
    assert [step.operation.name for step in steps[-2:]] == ["reboot", "wait_for"]
    packages = [name for step in steps if step.operation.name == "package" for name in step.arguments.names]
    assert packages == (
        ["linux-headers-arm64", "nvidia-driver", "nvidia-smi"] if os == "debian" else ["ubuntu-drivers-common"]
    )


def test_sources_are_left_alone_where_packages_come_from_the_bundle() -> None:
    variables = {**VARIABLES, "facts": Facts(os="debian", pci_vendors=("0x10de",))}
    books = Playbooks(shipped())

    def edits(packages: str) -> list[str]:
        steps = books.steps("gpu", HOST, {**variables, "packages": packages})
        return [step.id for step in steps if isinstance(step, Step) and step.operation.name == "command"]

    assert len(edits("mirror")) == 1
    assert edits("bundle") == []


def test_a_host_of_no_role_gets_only_what_all_get() -> None:
    books = Playbooks(shipped())
    postgres = dataclasses.replace(HOST, roles=("postgres",))
    steps = books.steps("redis", postgres, VARIABLES)
    assert steps and all(isinstance(step, Skipped) for step in steps)
