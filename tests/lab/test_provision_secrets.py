"""Secrets are in no command line, no environment, no log, no journal and no file that others can read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
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


def test_no_secret_is_anywhere_that_others_can_see(cluster: Operator) -> None:
    done, sampler = cluster.first_run, cluster.sampler
    assert done is not None and sampler is not None
    assert sampler.rounds > 20
    assert any("postgres" in text for text in sampler.seen)  # it did see the run
    secrets = _secrets(cluster.home)
    assert len(secrets) >= 8  # redis and postgres passwords, and a key a daemon
    visible = "\n".join(sampler.seen)
    for secret in secrets:
        assert secret not in visible
        assert secret not in done.stdout + done.stderr
    pattern = "\n".join(sorted(secrets))
    for name in cluster.lab.machines:
        logs = "journalctl --no-pager -o cat > /run/journal.txt; chmod 600 /run/journal.txt; cat > /run/patterns; "
        logs += "grep -rlFf /run/patterns /var/log /run/journal.txt /var/lib/qaicl-provision /tmp /var/tmp || true"
        assert cluster.lab.ssh(name, logs, stdin=pattern).stdout == "", name
        readable = "find / -xdev -type f -perm /004 -not -path '/proc/*' -not -path '/opt/qaicl/*' -size -1M "
        readable += "-print0 2>/dev/null | xargs -0 grep -lFf /run/patterns; rm -f /run/patterns /run/journal.txt"
        assert cluster.lab.ssh(name, readable, stdin=pattern, check=False).stdout == "", name
    for path in cluster.home.rglob("*"):
        if path.is_file() and path.suffix in (".jsonl", ".json", ".log") and "data" not in path.parts:
            text = path.read_text(errors="replace")
            assert not [secret for secret in secrets if secret in text], path
