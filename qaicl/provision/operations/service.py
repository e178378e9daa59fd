"""``service``: a systemd service that runs, starts at boot, and has read its present settings.

Whether it has read them is seen from the machine itself: a file in ``restart_after`` that is newer than the
service's start means a restart, also when an earlier run was killed between the two.
"""

from __future__ import annotations

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote


class Args(Arguments, frozen=True):
    """Arguments of ``service``."""

    name: str
    running: bool = True
    enabled: bool = True
    restart_after: tuple[str, ...] = ()
    """Paths and ``package:NAME``: a change of one of them needs a restart."""


def probes(args: Args) -> tuple[Probe, ...]:
    name = quote(args.name)
    paths = " ".join(quote(path) for path in args.restart_after if path.startswith("/"))
    newer = f'; for p in {paths}; do [ -e "$p" ] && stat -c \'%.9Y %n\' "$p"; done' if paths else ""
    return (
        Probe(
            f"service:{args.name}:{','.join(args.restart_after)}",
            f"systemctl show -p LoadState,ActiveState,UnitFileState,NeedDaemonReload,ExecMainStartTimestampMonotonic "
            f"{name}; echo \"now=$(date +%s.%N) $(cut -d' ' -f1 /proc/uptime)\"{newer}; true",
        ),
    )


def plan(args: Args, situation: Situation) -> Change | None:
    lines = situation.found[f"service:{args.name}:{','.join(args.restart_after)}"].stdout.splitlines()
    state = dict(line.split("=", 1) for line in lines if "=" in line and not line[0].isdigit())
    active = state.get("ActiveState") in ("active", "activating", "reloading")
    # A static unit or an alias is neither: what starts it is said elsewhere, and systemctl changes nothing about it.
    neither = state.get("UnitFileState") in ("static", "alias")
    enabled = state.get("UnitFileState") in ("enabled", "enabled-runtime")
    name = quote(args.name)
    reasons: list[str] = []
    script: list[str] = []
    undo: list[str] = []
    if state.get("NeedDaemonReload") == "yes" or any(item.startswith("/etc/systemd/") for item in situation.touched):
        script.append("systemctl daemon-reload")
    if args.enabled != enabled and not neither:
        reasons.append("does not start at boot" if args.enabled else "starts at boot")
        script.append(f"systemctl {'enable' if args.enabled else 'disable'} {name}")
        undo.append(f"systemctl {'disable' if args.enabled else 'enable'} {name}")
    stale = _stale(args, state, lines, situation) if active else []
    if args.running and not active:
        reasons.append("does not run")
        script.append(f"systemctl reset-failed {name} 2>/dev/null; systemctl restart {name}")
        undo.append(f"systemctl stop {name}")
    elif args.running and stale:
        reasons.append(f"runs with what was there before {', '.join(stale)} changed")
        script.append(f"systemctl restart {name}")
    elif not args.running and active:
        reasons.append("runs")
        script.append(f"systemctl stop {name}")
        undo.append(f"systemctl start {name}")
    if not reasons:
        return None
    failed = f"systemctl status --no-pager -n 15 {name} >&2; exit 1"
    commands = "\n".join(f"{line} || {{ {failed}; }}" for line in script)
    return Change(
        f"{args.name} {' and '.join(reasons)}",
        (Command(commands, timeout=180.0),),
        (Command("\n".join(undo) or "true"),),
        "\n".join(f"+ {line}" for line in script),
        touches=(f"service:{args.name}",),
    )


def _stale(args: Args, state: dict[str, str], lines: list[str], situation: Situation) -> list[str]:
    touched = [item for item in args.restart_after if item in situation.touched]
    started = float(state.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
    if started == 0.0:
        return touched
    now, uptime = (float(part) for part in state["now"].split())
    started_at = now - uptime + started
    newer = [
        path
        for stamp, _, path in (line.partition(" ") for line in lines if line[:1].isdigit())
        if float(stamp) > started_at and path not in touched
    ]
    return touched + newer


OPERATION = Operation("service", Args, probes, plan)
