"""``user``: a system user with a home and groups."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote


class Args(Arguments, frozen=True):
    """Arguments of ``user``."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z_][a-z0-9_-]*$")]
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"
    groups: tuple[str, ...] = ()


def probes(args: Args) -> tuple[Probe, ...]:
    return (Probe(f"user:{args.name}", f"getent passwd {args.name} || exit 3; id -nG {args.name}"),)


def plan(args: Args, situation: Situation) -> Change | None:
    found = situation.found[f"user:{args.name}"]
    groups = ",".join(args.groups)
    if found.status != 0:
        more = f" -G {quote(groups)}" if groups else ""
        # A group of that name may have stayed behind from an earlier installation.
        script = (
            f"getent group {args.name} >/dev/null || groupadd -r {args.name} || exit 1\n"
            f"useradd -r -g {args.name} -M -d {quote(args.home)} -s {quote(args.shell)}{more} {args.name}"
        )
        diff = f"+{args.home} {args.shell}" + "".join(f"\n+group {group}" for group in args.groups)
        return Change(f"there is no user {args.name}", (Command(script),), (Command(f"userdel {args.name}"),), diff)
    entry, _, member_line = found.stdout.partition("\n")
    *_, home, shell = entry.strip().split(":")
    missing = sorted(set(args.groups) - set(member_line.split()))
    if (home, shell) == (args.home, args.shell) and not missing:
        return None
    do = f"usermod -d {quote(args.home)} -s {quote(args.shell)} {args.name}"
    undo = f"usermod -d {quote(home)} -s {quote(shell)} {args.name}"
    if missing:
        do += f" && usermod -a -G {quote(','.join(missing))} {args.name}"
        undo += "".join(f" && gpasswd -d {args.name} {quote(group)}" for group in missing)
    diff = f"-{home} {shell}\n+{args.home} {args.shell}" + "".join(f"\n+group {group}" for group in missing)
    return Change(f"user {args.name} differs", (Command(do),), (Command(undo),), diff)


OPERATION = Operation("user", Args, probes, plan)
