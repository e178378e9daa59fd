"""A second run, with nothing to do, against Ansible doing equivalent tasks on the same machines.

Run it inside the lab's network, after an `apply` (docs/provision.md), with Ansible from its own environment:

    python3 -m venv /tmp/ansible && /tmp/ansible/bin/pip install ansible-core
    python tests/lab/lab.py run python bench/provision.py cluster.yaml /tmp/ansible/bin/ansible-playbook

Ansible gets pipelining, one fork a machine and no fact gathering beyond its minimum. Its tasks are as many and of the
same kinds as ours (packages, directories, files, services, commands), in a directory of their own. Each is run once to
settle, then the median of three is taken; the ratio is theirs over ours.

Where the time of a first run goes, from what `qaicl provision apply --yes -o json > first.jsonl` said:

    python bench/provision.py first.jsonl
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from qaicl.provision import inventory

RUNS = 3
SHOWN_SECONDS = 0.5


def tasks() -> list[dict[str, object]]:
    """What our site does on a machine, in Ansible's words: 45 tasks."""
    base = "/var/lib/ansible-bench"
    services = ("redis-server", "redis-sentinel", "nftables", "qaicl-node", "ssh")
    found: list[dict[str, object]] = [
        {"apt": {"name": ["ca-certificates", "nftables", "python3", "python3-venv"]}},
        {"apt": {"name": ["redis-server", "redis-sentinel", "redis-tools"]}},
        {"user": {"name": "qaicl", "system": True, "home": "/var/lib/qaicl", "shell": "/usr/sbin/nologin"}},
    ]
    found += [{"file": {"path": base if n == 0 else f"{base}/d{n}", "state": "directory"}} for n in range(12)]
    found += [{"copy": {"dest": f"{base}/f{n}", "content": f"file {n}\n" * 20, "mode": "0640"}} for n in range(20)]
    found += [{"systemd": {"name": name, "enabled": True, "state": "started"}} for name in services]
    found += [{"command": {"cmd": "touch /x", "creates": f"{base}/f{n}"}} for n in range(5)]
    return found


def seconds(command: list[str], env: dict[str, str]) -> float:
    """The median of three runs that each must find nothing to do."""
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    taken = []
    for _ in range(RUNS):
        begun = time.monotonic()
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        taken.append(time.monotonic() - begun)
        assert "nothing to change" in done.stderr or "changed=0" in done.stdout, done.stdout + done.stderr
    return statistics.median(taken)


def by_step(path: Path) -> None:
    """Print each step's seconds on the slowest machine; the machines work at the same time."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    slowest: dict[str, float] = {}
    for event in events:
        if event["kind"] == "step-done":
            slowest[event["step"]] = max(slowest.get(event["step"], 0.0), event["seconds"])
    machines = {event["host"]: event["seconds"] for event in events if event["kind"] == "host-done"}
    shown = [(seconds, step) for step, seconds in slowest.items() if seconds >= SHOWN_SECONDS]
    for seconds, step in sorted(shown, reverse=True):
        print(f"{seconds:8.1f} s  {step}")
    rest = sum(slowest.values()) - sum(seconds for seconds, _ in shown)
    print(f"{rest:8.1f} s  {len(slowest) - len(shown)} more steps, each under {SHOWN_SECONDS:g} s")
    print(f"{max(machines.values()):8.1f} s  the slowest of {len(machines)} machines; {os.cpu_count()} cores for all")


def main() -> None:
    """Measure both and print the ratio; or the steps of a first run."""
    if len(sys.argv) == 2:
        by_step(Path(sys.argv[1]))
        return
    path, ansible, *more = sys.argv[1:]
    found = inventory.load(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        known = "".join(f"{host.ssh_address} {host.host_key}\n" for host in found.hosts)
        (root / "known_hosts").write_text(known)
        hosts = {
            host.name: {
                "ansible_host": host.ssh_address,
                "ansible_user": host.user,
                "ansible_ssh_private_key_file": host.key,
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={root}/known_hosts",
            }
            for host in found.hosts
        }
        (root / "hosts.yaml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        play = {"hosts": "all", "gather_facts": False, "tasks": tasks()}
        (root / "site.yaml").write_text(yaml.safe_dump([play]))
        env = dict(os.environ) | {"ANSIBLE_PIPELINING": "1", "ANSIBLE_FORKS": str(len(hosts)), "ANSIBLE_HOME": folder}
        theirs = seconds([ansible, "-i", str(root / "hosts.yaml"), str(root / "site.yaml")], env)
    ours = seconds([sys.executable, "-m", "qaicl", "provision", "plan", "-f", path, *more], dict(os.environ))
    print(f"{len(found.hosts)} machines, {len(tasks())} tasks, {os.cpu_count()} cores, {platform.machine()}")
    print(f"ansible-playbook {theirs:.2f} s, qaicl provision plan {ours:.2f} s, ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
