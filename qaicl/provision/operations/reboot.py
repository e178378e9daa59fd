"""``reboot``: restart the machine where something says that it must, and go on afterwards."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qaicl.provision.operations.base import STATE, Arguments, Change, Operation, Probe, Reboot, Situation, guard, quote


class Args(Arguments, frozen=True):
    """Arguments of ``reboot``; one of the first three says when."""

    needed: str = ""
    """A script; exit status 0 means that a reboot is needed."""
    after: tuple[str, ...] = ()
    """Paths or ``package:NAME``: reboot where an earlier step of this run changes one of them."""
    once: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]*$")] = ""
    """Reboot a single time; the text names the occasion."""
    timeout: float = 600.0
    """Seconds within which the machine must be back."""

    @property
    def marker(self) -> str:
        return f"{STATE}/reboots/{self.once}" if self.once else ""


def probes(args: Args) -> tuple[Probe, ...]:
    found = []
    if args.needed:
        found.append(guard(args.needed, args.needed))
    if args.once:
        found.append(Probe(f"reboot:{args.once}", f"cat {quote(args.marker)} 2>/dev/null || echo -"))
    return tuple(found)


def plan(args: Args, situation: Situation) -> Change | None:
    changed = [item for item in args.after if item in situation.touched]
    reason = ""
    if changed:
        reason = f"{', '.join(changed)} changes"
    elif args.needed and situation.found[f"guard:{args.needed}"].status == 0:
        reason = "its guard says so"
    elif args.once:
        asked_at = situation.found[f"reboot:{args.once}"].stdout.strip()
        if asked_at == "-":
            reason = f"'{args.once}' has not been done"
        elif asked_at == situation.facts.boot:
            reason = f"'{args.once}' was asked for and has not happened"
    if not reason:
        return None
    return Change(reason, (Reboot(args.timeout, args.marker),), touches=("boot",))


OPERATION = Operation("reboot", Args, probes, plan)
