"""SmolLM2 in float32 over three nodes: the real text, also when a node dies in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster.conftest import Cluster, collect, make_cluster, spec

TOKENS = 40


@pytest.fixture(scope="module")
def cluster(smollm2_directory: Path) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAICL_MODELS_DIRECTORY", str(smollm2_directory.parent))
        yield from make_cluster(model="smollm2-135m", precision="float32")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_split_and_killed_text_equals_the_replica_text(cluster: Cluster, temperature: float) -> None:
    options = {"temperature": temperature, "max_tokens": TOKENS, "seed": 11}
    cluster.up()
    with cluster.client() as client:
        replica = collect(client.ask([spec("Why is the sky blue?", mode="replica", **options)]))
        split = collect(client.ask([spec("Why is the sky blue?", mode="split", stages=3, **options)]))
        killed = collect(
            client.ask([spec("Why is the sky blue?", mode="split", stages=3, **options)]),
            TOKENS // 3,
            lambda: cluster.kill(cluster.node_of_later_stage()),
        )
    assert "light" in replica.text or temperature > 0
    assert split.text == replica.text
    assert killed.text == replica.text
    assert len(killed.tokens) == TOKENS
    assert killed.outcome is not None and len(killed.outcome.failovers) == 1


@pytest.mark.timeout(300)
def test_requests_answered_together_equal_those_answered_alone(cluster: Cluster) -> None:
    cluster.up()
    questions = [spec(f"What is {number} plus {number}?", temperature=0.0, max_tokens=12) for number in range(5)]
    alone = {}
    with cluster.client() as client:
        for question in questions:
            alone[question.messages] = collect(client.ask([question])).text
    together: dict[str, str] = {}
    again = [spec(f"What is {number} plus {number}?", temperature=0.0, max_tokens=12) for number in range(5)]
    with cluster.client() as client:
        for update in client.ask(again):
            together[update.request] = together.get(update.request, "") + "".join(t.text for t in update.tokens)
    for question in again:
        assert together[question.id] == alone[question.messages]
