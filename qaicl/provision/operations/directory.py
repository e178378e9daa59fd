"""``directory``: a directory with owner and mode."""

from __future__ import annotations

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote
from qaicl.provision.operations.file import AbsolutePath, Mode
from qaicl.provision.operations.paths import parse_path, path_probe


class Args(Arguments, frozen=True):
    """Arguments of ``directory``."""

    path: AbsolutePath
    mode: Mode = "0755"
    owner: str = "root"
    group: str = "root"


def probes(args: Args) -> tuple[Probe, ...]:
    return (path_probe(args.path),)


def plan(args: Args, situation: Situation) -> Change | None:
    now = parse_path(situation.found[f"path:{args.path}"])
    path = quote(args.path)
    if now.kind == "directory":
        before = f"{now.owner}:{now.group} {now.mode.zfill(4)}"
        after = f"{args.owner}:{args.group} {args.mode}"
        if before == after:
            return None
        undo = f"chown {now.owner}:{now.group} {path} && chmod {now.mode} {path}"
        do = f"chown {args.owner}:{args.group} {path} && chmod {args.mode} {path}"
        return Change(
            f"{args.path} has another owner or mode", (Command(do),), (Command(undo),), f"-{before}\n+{after}"
        )
    if now.kind:
        reason = f"{args.path} is there and is no directory"
        return Change(reason, (Command(f"echo {quote(reason)} >&2; exit 1"),))
    do = f"install -d -m {args.mode} -o {quote(args.owner)} -g {quote(args.group)} {path}"
    diff = f"+{args.owner}:{args.group} {args.mode}"
    return Change(f"{args.path} is missing", (Command(do),), (Command(f"rmdir {path}"),), diff)


OPERATION = Operation("directory", Args, probes, plan)
