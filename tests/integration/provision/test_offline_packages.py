"""Machines without a mirror: a real apt and dpkg on a pretended machine, with packages from the bundle alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from archive import ARCHITECTURE, MISSING, Archive, Signer
from pretend import Machine, Operator

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")

TOOL = {"name": "Tool", "package": {"names": ["tool"]}}
OTHER = {"name": "Other", "package": {"names": ["other"]}}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """``tool`` needs the newer ``library``, whose older one and its sibling a machine may have."""
    signer = Signer("archive")
    made = Archive(tmp_path_factory.mktemp("published") / "archive", signer)
    made.add("tool", "1:2.0", depends="library (>= 2)")
    made.add("library", "2.0", source="lib")
    made.add("sibling", "2.0", source="lib", depends="library (= 2.0)")
    made.add("other", "3.0")
    made.publish()
    yield made
    made.stop()
    signer.forget()


def _give_it_apt(machine: Machine) -> Machine:
    """A package system of its own, and a mirror that nobody answers at."""
    home = machine.root / "apt"
    (home / "none").mkdir(parents=True)
    (home / "sources.list").write_text("deb http://127.0.0.1:9/debian test main\n")
    (home / "apt.conf").write_text(
        f'Dir::Etc "{home}";\nDir::Etc::sourcelist "{home}/sources.list";\nDir::Etc::parts "{home}/none";\n'
        f'Dir::Etc::sourceparts "{home}/none";\nDir::Log "{home}";\nDir::Cache "{home}";\n'
        f'APT::Architecture "{ARCHITECTURE}";\nAPT::Sandbox::User "root";\nDir::Bin::dpkg "{machine.root}/bin/dpkg";\n'
    )
    for folder in ("dpkg/info", "dpkg/updates", "apt/lists/partial"):
        machine.at(f"/var/lib/{folder}").mkdir(parents=True)
    machine.at("/var/lib/dpkg/status").touch()
    machine.fake("apt-get", f'APT_CONFIG={home}/apt.conf exec /usr/bin/apt-get "$@"')
    machine.fake("dpkg", 'exec /usr/bin/dpkg --log=/dev/null "$@"')
    return machine


@pytest.fixture
def offline(machine: Machine) -> Machine:
    return _give_it_apt(machine)


def _installed(machine: Machine) -> dict[str, str]:
    shown = machine.inside("dpkg-query -W -f '${Package} ${Version} ${Status}\\n'").splitlines()
    return {line.split()[0]: line.split()[1] for line in shown if line.endswith("install ok installed")}


def _has(machine: Machine, *packages: Path) -> None:
    machine.inside(f"dpkg --log=/dev/null -i {' '.join(map(str, packages))}")


def _pushed(machine: Machine) -> set[str]:
    return {path.name.split("_")[0] for path in machine.at("/var/lib/qaicl-packages").glob("*.deb")}


def test_a_machine_without_a_mirror_gets_what_it_lacks_and_then_nothing(
    operator: Operator, offline: Machine, archive: Archive
) -> None:
    operator.describe(offline, packages="bundle", package_sources=[archive.source])
    operator.playbook(TOOL, OTHER | {"roles": ["postgres"]})
    gathered = operator("bundle", "--playbooks", operator.playbooks, "--verify", "-o", "json")
    assert gathered.code == 0, gathered.err
    archive.stop()  # nobody asks the archive again
    done = operator("apply", "--yes", "--tags", "site")
    assert done.code == 0, done.err
    assert "tool is not installed" in done.out
    assert _installed(offline) == {"tool": "1:2.0", "library": "2.0"}
    assert offline.at("/opt/tool").read_text().startswith("1:2.0")
    assert _pushed(offline) == {"tool", "library"}
    assert operator("plan").code == 0
    assert "127.0.0.1:9" in (offline.root / "apt" / "sources.list").read_text()


def test_each_machine_gets_only_what_its_steps_install(
    operator: Operator, machines: Callable[[str], Machine], archive: Archive
) -> None:
    first, second = _give_it_apt(machines("a")), _give_it_apt(machines("b"))
    _has(second, archive.directory / f"library_2.0_{ARCHITECTURE}.deb")
    operator.describe(first, second, packages="bundle", package_sources=[archive.source])
    operator.playbook(TOOL, OTHER | {"roles": ["redis"]})
    assert operator("apply", "--yes", "--tags", "site").code == 0
    assert _installed(first) == {"tool": "1:2.0", "library": "2.0", "other": "3.0"}
    assert _installed(second) == {"tool": "1:2.0", "library": "2.0"}
    assert _pushed(first) == {"tool", "library", "other"}
    assert _pushed(second) == {"tool"}


def test_what_belongs_together_is_brought_to_one_version(
    operator: Operator, offline: Machine, archive: Archive, tmp_path: Path
) -> None:
    old = Archive(tmp_path / "old" / "archive", archive.signer)
    try:
        _has(offline, old.add("library", "1.0", source="lib"))
        _has(offline, old.add("sibling", "1.0", source="lib", depends="library (= 1.0)"))
    finally:
        old.stop()
    operator.describe(offline, packages="bundle", package_sources=[archive.source])
    operator.playbook(TOOL)
    done = operator("apply", "--yes", "--tags", "site")
    assert done.code == 0, done.err
    assert _installed(offline) == {"tool": "1:2.0", "library": "2.0", "sibling": "2.0"}


def test_nothing_is_removed_to_make_room(
    operator: Operator, offline: Machine, archive: Archive, tmp_path: Path
) -> None:
    foreign = Archive(tmp_path / "foreign" / "archive", archive.signer)
    try:
        _has(offline, foreign.add("precious", "1.0", conflicts="library"))
    finally:
        foreign.stop()
    operator.describe(offline, packages="bundle", package_sources=[archive.source])
    operator.playbook(TOOL)
    done = operator("apply", "--yes", "--tags", "site")
    assert done.code == 1
    assert "Tool failed on a" in done.err
    assert "nothing was removed" in done.err
    assert _installed(offline) == {"precious": "1.0"}


def test_a_package_that_was_changed_on_the_machine_is_brought_again(
    operator: Operator, offline: Machine, archive: Archive
) -> None:
    operator.describe(offline, packages="bundle", package_sources=[archive.source])
    operator.playbook(TOOL)
    assert operator("apply", "--yes", "--tags", "site").code == 0
    offline.inside("dpkg --log=/dev/null --purge tool")
    victim = offline.at(f"/var/lib/qaicl-packages/tool_2.0_{ARCHITECTURE}.deb")
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    leftover = victim.with_name("older_1.0_all.deb")
    leftover.write_bytes(b"of another bundle")
    done = operator("apply", "--yes", "--tags", "site", "-o", "json")
    assert done.code == 0, done.err
    pushed = {json.loads(line)["name"] for line in done.out.splitlines() if '"kind":"upload"' in line}
    assert pushed == {"Packages", victim.name}
    assert _installed(offline)["tool"] == "1:2.0"
    assert not leftover.exists()
