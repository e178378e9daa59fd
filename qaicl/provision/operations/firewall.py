"""``firewall``: an nftables table of our own, in a file of its own, loaded now.

The file becomes part of every boot when ``/etc/nftables.conf`` includes it; that file is somebody else's and is not
written here. Other tables stay as they are. What is loaded is compared with what was loaded last time, so a rule that
somebody added by hand is found as well as an edited file. It is listed by number: names depend on what else is
installed.
"""

from __future__ import annotations

import hashlib

from qaicl.provision.operations.base import (
    STATE,
    Arguments,
    Change,
    Command,
    Operation,
    Probe,
    Situation,
    quote,
    unified,
)
from qaicl.provision.operations.paths import parse_path, path_probe, write_command

DIRECTORY = "/etc/nftables.d"
LIVE = f"{STATE}/nftables.live"


class Args(Arguments, frozen=True):
    """Arguments of ``firewall``."""

    table: str
    content: str = ""
    template: str = ""

    @property
    def path(self) -> str:
        """The table's file."""
        return f"{DIRECTORY}/{self.table}.nft"


def probes(args: Args) -> tuple[Probe, ...]:
    table = quote(args.table)
    return (
        path_probe(args.path),
        Probe(
            f"nftables:{args.table}",
            f"nft -n -s list table inet {table} 2>/dev/null | sha256sum | cut -c1-64\n"
            f"cat {LIVE} 2>/dev/null || echo -; "
            "systemctl is-enabled nftables 2>/dev/null || true",
        ),
    )


def plan(args: Args, situation: Situation) -> Change | None:
    path = args.path
    now = parse_path(situation.found[f"path:{path}"])
    live, recorded, enabled = [*situation.found[f"nftables:{args.table}"].stdout.split(), "", "", ""][:3]
    content = args.content.encode()
    # What was recorded belongs to one version of the file: both digests stand in the record.
    digest = hashlib.sha256(content).hexdigest()
    reasons = []
    if now.sha256 != digest:
        reasons.append(f"{path} differs")
    if recorded != f"{digest}:{live}":
        reasons.append("other rules are loaded")
    if enabled != "enabled":
        reasons.append("the rules are not loaded at boot")
    if not reasons:
        return None
    table = quote(args.table)
    load = Command(
        f"set -e; install -d -m 0700 {STATE}; nft -c -f {quote(path)}; nft -f {quote(path)}\n"
        "systemctl enable nftables >/dev/null 2>&1\n"
        f'live=$(nft -n -s list table inet {table} | sha256sum | cut -c1-64); echo "{digest}:$live" > {LIVE}'
    )
    whole = len(now.content) == now.size
    restore = (
        (
            write_command(path, now.content, now.mode, now.owner, now.group),
            Command(f"nft -f {quote(path)}; rm -f {LIVE}"),
        )
        if now.kind == "file"
        else (Command(f"rm -f {quote(path)} {LIVE}; nft delete table inet {table}"),)
    )
    return Change(
        " and ".join(reasons),
        (write_command(path, content, "0644", "root", "root"), load),
        restore if whole else None,
        unified(now.text if now.kind == "file" else "", args.content, path),
        (path,),
    )


OPERATION = Operation("firewall", Args, probes, plan)
