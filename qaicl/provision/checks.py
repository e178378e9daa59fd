"""The checks of requirement R34: looked at on the machines, judged here, each failure with a fix."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from qaicl.errors import HostUnreachableError, PlaybookError, ProvisionError
from qaicl.provision.identity import Daemon, daemons
from qaicl.provision.inventory import Host, Inventory
from qaicl.provision.operations.base import quote
from qaicl.provision.playbook import Check
from qaicl.provision.secrets import SecretStore, redis_word
from qaicl.provision.session import Machine, Session, in_parallel, read_facts

CURRENT = "/opt/qaicl/current/bin/python"
REDIS_SECONDS = 20.0
"""For replicas that copy, just after a start."""

_MATRIX = (
    "import torch; a = torch.eye(512, device='cuda') * 2; "
    "assert float((a @ a).trace()) == 2048.0; print(torch.cuda.get_device_name(0))"
)
_MODEL = (
    "import sys; from pathlib import Path; from safetensors import safe_open; from qaicl.models.store import Store; "
    "s = Store(Path('/var/lib/qaicl/data/models')); s.verify(sys.argv[1]); d = s.open(sys.argv[1]); "
    "f = [safe_open(p, 'pt') for p in d.glob('*.safetensors')]; "
    "print(sum(len(list(x.keys())) for x in f), 'tensors')"
)
_ROUND_TRIP = """
import json, socket, sys, time
for name, host, port in json.loads(sys.argv[1]):
    best, error = None, "no answer"
    for _ in range(5):
        begun = time.perf_counter()
        try:
            socket.create_connection((host, port), timeout=3).close()
        except OSError as problem:
            error = str(problem)
            break
        seconds = time.perf_counter() - begun
        best = seconds if best is None else min(best, seconds)
    print(json.dumps([name, best, error]))
"""


class Finding(msgspec.Struct, frozen=True):
    """What a check found on a host; ``ok`` is None where it does not apply."""

    check: str
    host: str
    ok: bool | None
    found: str
    fix: str


def verdict(findings: Iterable[Finding]) -> ProvisionError | None:
    """One error that names every failed check; None where none failed."""
    wrong = [finding for finding in findings if finding.ok is False]
    if not wrong:
        return None
    return ProvisionError(
        f"{len(wrong)} {'check' if len(wrong) == 1 else 'checks'} failed",
        why="; ".join(f"{finding.host}: {finding.check}: {finding.found}" for finding in wrong),
        fix=wrong[0].fix,
    )


@dataclass(frozen=True)
class _Answer:
    ok: bool | None
    found: str


@dataclass(frozen=True)
class Checker:
    """Runs checks on the machines of a session."""

    inventory: Inventory
    secrets: SecretStore

    def run(self, session: Session, checks: Sequence[Check]) -> list[Finding]:
        """All checks on all machines; the machines at once.

        Raises:
            PlaybookError: a playbook names a check that there is not.
        """
        kinds: dict[str, Callable[[Machine, Check], Iterable[_Answer]]] = {
            "gpu": self._gpu,
            "model": self._model,
            "daemons": self._daemons,
            "network": self._network,
            "redis": self._redis,
            "clock": self._clock,
            "time-sync": self._time_sync,
            "disk": self._disk,
        }
        for check in checks:
            if check.kind not in kinds:
                raise PlaybookError(
                    f"there is no check '{check.kind}'", why=f"there are {', '.join(kinds)}", fix="correct the playbook"
                )

        def one(machine: Machine) -> list[Finding]:
            found = []
            for check in checks:
                try:
                    answers = list(kinds[check.kind](machine, check))
                except HostUnreachableError as error:
                    answers = [_Answer(False, error.why)]
                for answer in answers:
                    fix = "" if answer.ok is not False else check.fix
                    found.append(Finding(check.name, machine.host.name, answer.ok, answer.found, fix))
            return found

        groups = in_parallel(one, session.machines, interrupt=session.close)
        findings = [finding for group in groups for finding in group]
        for finding in findings:
            session.events("check", finding.host, name=finding.check, text=finding.found, ok=finding.ok)
        return findings

    def _mine(self, host: Host) -> list[Daemon]:
        return [daemon for daemon in daemons(self.inventory) if daemon.host == host.name]

    def _gpu(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        if not machine.facts.nvidia:
            return [_Answer(None, "no NVIDIA device, skipped")]
        result = machine.connection.run(f"nvidia-smi -L >&2 && {CURRENT} -c {quote(_MATRIX)}", timeout=120.0)
        return [_Answer(result.status == 0, _last(result.text if result.status == 0 else result.error_text))]

    def _model(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        if not self._mine(machine.host):
            return [_Answer(None, "hosts no daemon")]
        script = f"cd /; runuser -u qaicl -- {CURRENT} -c {quote(_MODEL)} {quote(self.inventory.model)}"
        result = machine.connection.run(script, timeout=300.0)
        return [_Answer(result.status == 0, _last(result.text if result.status == 0 else result.error_text))]

    def _daemons(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        mine = self._mine(machine.host)
        if not mine:
            return [_Answer(None, "hosts no daemon")]
        units = " ".join(f"qaicl-{daemon.role}" for daemon in mine)
        result = machine.connection.run(f"systemctl is-active {units}")
        states = result.text.split()
        if len(states) != len(mine):
            return [_Answer(False, _last(result.text + result.error_text))]
        said = ", ".join(f"{daemon.name} {state}" for daemon, state in zip(mine, states, strict=True))
        return [_Answer(all(state == "active" for state in states), said)]

    def _network(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        targets = [(d.name, d.address, d.port) for d in daemons(self.inventory) if d.host != machine.host.name]
        targets += [
            (f"redis on {host.name}", host.address, 6379)
            for host in self.inventory.with_role("redis")
            if host.name != machine.host.name
        ]
        if not targets:
            return [_Answer(None, "there is no other machine")]
        script = f"python3 -c {quote(_ROUND_TRIP)} {quote(json.dumps(targets))}"
        result = machine.connection.run(script, timeout=60.0)
        worst, wrong = 0.0, []
        for line in result.text.splitlines():
            name, seconds, error = json.loads(line)
            if seconds is None:
                wrong.append(f"{name}: {error}")
            else:
                worst = max(worst, seconds * 1000)
                if seconds * 1000 >= check.limit:
                    wrong.append(f"{name}: {seconds * 1000:.1f} ms")
        if result.status != 0:
            wrong.append(_last(result.error_text))
        return [_Answer(not wrong, "; ".join(wrong) or f"{len(targets)} reached, slowest {worst:.2f} ms")]

    def _redis(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        if not machine.host.has("redis"):
            return [_Answer(None, "hosts no Redis")]
        count = len(self.inventory.with_role("redis"))
        # The password goes over stdin: redis-cli reads its commands there.
        login = f"AUTH operator {redis_word(self.secrets.get('redis-operator'))}\nROLE\nINFO replication\n".encode()
        end = time.monotonic() + REDIS_SECONDS
        while True:
            result = machine.connection.run(f"redis-cli -h {machine.host.address} -p 6379", stdin=login, timeout=20.0)
            text = result.text.replace("\r", "")
            info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if info.get("role") == "master":
                replicas = int(info.get("connected_slaves", "0"))
                ok, said = replicas >= min(count - 1, 1), f"master with {replicas} replicas"
            elif info.get("role") == "slave":
                up = info.get("master_link_status") == "up"
                ok, said = up, f"replica of {info.get('master_host')}, link {info.get('master_link_status')}"
            else:
                ok, said = False, _last(text or result.error_text)
            if ok or time.monotonic() > end:
                return [_Answer(ok, said)]
            time.sleep(0.5)

    def _clock(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        before = time.time()
        facts = read_facts(machine.connection)
        after = time.time()
        skew = max(0.0, before - facts.time, facts.time - after)
        return [_Answer(skew < check.limit, f"{skew:.3f} s from this machine's clock")]

    def _time_sync(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        if machine.facts.container:
            return [_Answer(None, "a container has its host's clock")]
        result = machine.connection.run("timedatectl show -p NTPSynchronized --value")
        return [_Answer(result.text.strip() == "yes", f"NTPSynchronized={result.text.strip() or 'unknown'}")]

    def _disk(self, machine: Machine, check: Check) -> Iterable[_Answer]:
        result = machine.connection.run("df -Pk /opt /var | awk 'NR>1 {print $4}'")
        free = min((int(line) for line in result.text.split()), default=0) / 1_048_576
        return [_Answer(free >= check.limit, f"{free:.1f} GB free")]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"
