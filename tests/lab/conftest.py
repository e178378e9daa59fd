"""The lab of a test session, and what keeps these tests out of an ordinary run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from harness import requirements  # noqa: E402
from harness.command import wait_until  # noqa: E402
from harness.config import LabConfig  # noqa: E402
from harness.lab import Lab  # noqa: E402
from harness.operator import Operator, freeze_checkout, keep_gathered  # noqa: E402
from harness.sampler import Sampler  # noqa: E402

PROVISIONED = "provisioned"
# Not the default name: a lab that somebody tries things in stays what it is while the tests run.
SESSION_LAB = "qaicl-test"
LONGEST_TEST = 1800


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Lab tests run only when they are asked for: ``pytest tests/lab -m lab``."""
    if collection_path.suffix == ".py" and "lab" not in config.option.markexpr:
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with the reason where this machine cannot carry a lab."""
    reason = requirements.why_unsupported()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONGEST_TEST))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three machines, kept for the whole session. Their state is whatever the last test left."""
    lab = Lab(LabConfig.from_environment(SESSION_LAB))
    with lab.locked():
        lab.up()
        lab.save("bare")
        try:
            yield lab
        finally:
            lab.down()


@pytest.fixture
def bare(lab: Lab) -> Lab:
    """Three machines as a cloud hands them over: nothing on them but SSH."""
    lab.restore("bare")
    return lab


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The qaicl under test, as it was when the session began."""
    return freeze_checkout(tmp_path_factory.mktemp("checkout") / "qaicl")


@pytest.fixture(scope="session")
def gathered(lab: Lab, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The model and the wheels of this qaicl are in the cache, so that no operator has to fetch them."""
    operator = Operator(lab, tmp_path_factory.mktemp("gather") / "home", checkout)
    operator.qaicl("model", "pull", "smollm2-135m").expect(0)
    operator.qaicl("provision", "bundle", "-f", str(operator.inventory)).expect(0)
    keep_gathered(operator)


@pytest.fixture
def operator(lab: Lab, gathered: None, checkout: Path, tmp_path: Path) -> Operator:
    """An operator who has done nothing yet, with the model and the wheels already at hand."""
    return Operator(lab, tmp_path / "home", checkout)


@pytest.fixture(scope="session")
def cluster_operator(lab: Lab, gathered: None, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """The operator of the session's cluster, provisioned once from bare machines in a run that nothing disturbs."""
    operator = Operator(lab, tmp_path_factory.mktemp("cluster") / "home", checkout)
    lab.restore("bare")
    with Sampler(lab) as operator.sampler:
        operator.first_run = operator.apply().expect(0)
    wait_until(operator.answers, "the fresh cluster answers", timeout=120, every=1)
    lab.save(PROVISIONED)
    return operator


@pytest.fixture
def cluster(cluster_operator: Operator) -> Operator:
    """A cluster that answers, on three machines as they were right after provisioning."""
    cluster_operator.lab.restore(PROVISIONED)
    wait_until(lambda: len(cluster_operator.alive_nodes()) == 3, "three nodes alive", timeout=120, every=1)
    wait_until(cluster_operator.answers, "the restored cluster answers", timeout=120, every=1)
    return cluster_operator
