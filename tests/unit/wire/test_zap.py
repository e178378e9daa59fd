"""The gate's answers, and what it keeps of those it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaicl.wire import keys, sockets, zap


@pytest.fixture
def gate(tmp_path: Path) -> zap.Gate:
    domains = {"nodes": frozenset({"orchestrator", "node"}), "clients": frozenset({"client"})}
    return zap.Gate(sockets.Context.instance(), keys.AllowList(tmp_path), domains)


@pytest.mark.parametrize(
    ("role", "domain", "allowed"),
    [
        ("node", "nodes", True),
        ("orchestrator", "nodes", True),
        ("client", "nodes", False),
        ("client", "clients", True),
        ("node", "clients", False),
        ("node", "elsewhere", False),
        ("node", "", False),
    ],
)
def test_a_domain_lets_its_roles_in(gate: zap.Gate, tmp_path: Path, role: str, domain: str, allowed: bool) -> None:
    pair = keys.make_keypair(tmp_path / role, "someone")
    assert gate.callback(domain, pair.public.encode()) is allowed
    assert gate.refusals == (0 if allowed else 1)


def test_knocking_without_end_fills_neither_memory_nor_log(gate: zap.Gate, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10_000):
        assert not gate.callback("nodes", f"{number:040}".encode())
        gate.callback("nodes", b"z" * 40)
    assert gate.refusals == 20_000
    assert len(gate.refused) <= 2000
    assert gate.refused.most_common(1) == [("z" * 40, 10_000)]
    assert 1 <= len(caplog.records) < 200
    assert "nodes" in caplog.text
