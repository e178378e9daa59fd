"""``wait_for``: go on only when something has become so."""

from __future__ import annotations

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, guard, quote


class Args(Arguments, frozen=True):
    """Arguments of ``wait_for``."""

    until: str
    """A script; exit status 0 means that it has. What it says in the end explains a failure, so it holds no secret."""
    what: str
    """What is awaited, for the message when it does not come."""
    hopeless: str = ""
    """A script; exit status 0 means that it never will, and what it says is why."""
    timeout: int = 60
    """Seconds."""
    after: tuple[str, ...] = ()
    """Paths, ``package:NAME`` or ``service:NAME``: wait also where an earlier step changes one of them."""


def probes(args: Args) -> tuple[Probe, ...]:
    return (guard(args.until, args.until),)


def plan(args: Args, situation: Situation) -> Change | None:
    changed = [item for item in args.after if item in situation.touched]
    if situation.found[f"guard:{args.until}"].status == 0 and not changed:
        return None
    message = quote(f"not within {args.timeout} s: {args.what}")
    give_up = (
        f"  if why=$( {args.hopeless}\n) 2>/dev/null; then printf '%s\\n' \"$why\" >&2; exit 1; fi\n"
        if args.hopeless
        else ""
    )
    script = (
        f"end=$(( $(date +%s) + {args.timeout} ))\n"
        f"until said=$( {{ {args.until}\n}} 2>&1 ); do\n"
        '  [ "$(date +%s)" -lt "$end" ] || '
        f"{{ printf '%s\\n' {message} ${{said:+\"$said\"}} | head -n 6 >&2; exit 1; }}\n"
        f"{give_up}  sleep 0.3\ndone"
    )
    return Change(f"waits until {args.what}", (Command(script, timeout=args.timeout + 30.0),), (Command("true"),))


OPERATION = Operation("wait_for", Args, probes, plan)
