"""Secrets are in no command line, no environment, no log, no journal and no file that others can read."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from harness.errors import GuestOffError
from harness.lab import Lab
from harness.operator import Operator

pytestmark = pytest.mark.lab


def _secrets(home: Path) -> set[str]:
    """Every secret that the operator's side made: passwords and the secret halves of key pairs."""
    found: set[str] = set()
    for path in home.rglob("*"):
        folders = path.relative_to(home).parts[:-1]
        if not path.is_file() or "data" in folders[:1] or path.stat().st_mode & 0o077:
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".key_secret":
            found.update(re.findall(r'secret-key\s*=\s*"([^"]+)"', text))
        elif any("secret" in folder for folder in folders) and len(text.strip()) >= 16:
            found.add(text.strip())
    return found


class Sampler:
    """Looks at every process of every machine, again and again, while a run goes on."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampler")
        self.seen: set[str] = set()
        self.rounds = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._enough.is_set():
            for machine in self._lab.machines.values():
                try:
                    processes = machine.processes()
                except GuestOffError:
                    continue
                for process in processes:
                    self.seen.update(process.arguments)
                    self.seen.update(process.environment)
            self.rounds += 1
            self._enough.wait(0.05)


def test_no_secret_is_anywhere_that_others_can_see(bare: Lab, operator: Operator) -> None:
    with Sampler(bare) as sampler:
        done = operator.apply().expect(0)
        assert operator.answers()
    assert sampler.rounds > 20
    assert any("postgres" in text for text in sampler.seen)  # it did see the run
    secrets = _secrets(operator.home)
    assert len(secrets) >= 8  # redis and postgres passwords, and a key a daemon
    visible = "\n".join(sampler.seen)
    for secret in secrets:
        assert secret not in visible
        assert secret not in done.stdout + done.stderr
    pattern = "\n".join(sorted(secrets))
    for name in bare.machines:
        logs = "journalctl --no-pager -o cat > /run/journal.txt; chmod 600 /run/journal.txt; cat > /run/patterns; "
        logs += "grep -rlFf /run/patterns /var/log /run/journal.txt /var/lib/qaicl-provision /tmp /var/tmp || true"
        assert bare.ssh(name, logs, stdin=pattern).stdout == "", name
        readable = "find / -xdev -type f -perm /004 -not -path '/proc/*' -not -path '/opt/qaicl/*' -size -1M "
        readable += "-print0 2>/dev/null | xargs -0 grep -lFf /run/patterns; rm -f /run/patterns /run/journal.txt"
        assert bare.ssh(name, readable, stdin=pattern, check=False).stdout == "", name
    for path in operator.home.rglob("*"):
        if path.is_file() and path.suffix in (".jsonl", ".json", ".log") and "data" not in path.parts:
            text = path.read_text(errors="replace")
            assert not [secret for secret in secrets if secret in text], path
