"""``command``: a script with a guard that says when it is not needed."""

from __future__ import annotations

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, guard


class Args(Arguments, frozen=True):
    """Arguments of ``command``."""

    run: str
    unless: str
    """A script; exit status 0 means that there is nothing to do."""
    after: tuple[str, ...] = ()
    """Paths, ``package:NAME`` or ``service:NAME``: run also where an earlier step changes one of them."""
    undo: str = ""
    """Empty means irreversible."""
    touches: tuple[str, ...] = ()
    reason: str = ""
    stdin: str = ""
    """What the script reads; may hold a secret and is never shown."""


def probes(args: Args) -> tuple[Probe, ...]:
    return (guard(args.unless, args.unless),)


def plan(args: Args, situation: Situation) -> Change | None:
    changed = [item for item in args.after if item in situation.touched]
    if situation.found[f"guard:{args.unless}"].status == 0 and not changed:
        return None
    return Change(
        args.reason or (f"{', '.join(changed)} changes" if changed else "its guard says so"),
        (Command(args.run, stdin=args.stdin.encode() if args.stdin else None),),
        (Command(args.undo),) if args.undo else None,
        "\n".join(f"+ {line}" for line in args.run.strip().splitlines()),
        tuple(args.touches),
    )


OPERATION = Operation("command", Args, probes, plan)
