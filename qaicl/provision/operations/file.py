"""``file``: a file with a given content, owner and mode."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Annotated

import msgspec

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote, unified
from qaicl.provision.operations.paths import PathState, parse_path, path_probe, write_command

Mode = Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")]
AbsolutePath = Annotated[str, msgspec.Meta(pattern="^/")]


class Args(Arguments, frozen=True):
    """Arguments of ``file``."""

    path: AbsolutePath
    content: str = ""
    mode: Mode = "0644"
    owner: str = "root"
    group: str = "root"
    secret: bool = False
    """The content is never shown."""
    once: bool = False
    """Written only where there is none: something else owns it from then on."""
    absent: bool = False


def probes(args: Args) -> tuple[Probe, ...]:
    return (path_probe(args.path),)


def plan(args: Args, situation: Situation) -> Change | None:
    return plan_file(args, parse_path(situation.found[f"path:{args.path}"]))


def plan_file(args: Args, now: PathState) -> Change | None:
    """The change that makes a path the wanted file; also used by the operations that write files."""
    if args.absent:
        return _removal(args, now)
    if args.once and now.kind:
        return None
    content = args.content.encode()
    same_content = now.kind == "file" and now.sha256 == hashlib.sha256(content).hexdigest()
    metadata = _metadata(args, now) if now.kind == "file" else ""
    if same_content and not metadata:
        return None
    if now.kind not in ("", "file", "link"):
        reason = f"{args.path} is a {now.kind}, not a file"
        return Change(reason, (Command(f"echo {quote(reason)} >&2; exit 1"),))
    undo: tuple[Command, ...] | None
    if not now.kind:
        undo = (Command(f"rm -f {quote(args.path)}"),)
    elif now.kind == "file" and len(now.content) == now.size:
        undo = (write_command(args.path, now.content, now.mode, now.owner, now.group),)
    else:
        undo = None
    if same_content:
        script = f'p={quote(args.path)}; chown {args.owner}:{args.group} "$p" && chmod {args.mode} "$p"'
        return Change(f"{args.path} has another owner or mode", (Command(script),), undo, metadata, (args.path,))
    if args.secret:
        diff = f"{args.path}: secret content, not shown"
    elif now.kind == "file" and len(now.content) != now.size:
        diff = f"{args.path}: {now.size} bytes now, too many to show"
    else:
        diff = unified(now.text if now.kind == "file" else "", args.content, args.path)
    reason = f"{args.path} differs" if now.kind else f"{args.path} is missing"
    write = write_command(args.path, content, args.mode, args.owner, args.group)
    if args.once:  # a package that an earlier step installs may bring it
        write = replace(write, script=f"[ ! -e {quote(args.path)} ] || exit 0\n{write.script}")
    return Change(reason, (write,), undo, "\n".join(part for part in (diff, metadata) if part), (args.path,))


def _metadata(args: Args, now: PathState) -> str:
    before = f"{now.owner}:{now.group} {now.mode.zfill(4)}"
    after = f"{args.owner}:{args.group} {args.mode}"
    return f"-{before}\n+{after}" if before != after else ""


def _removal(args: Args, now: PathState) -> Change | None:
    if not now.kind:
        return None
    undo = None
    if now.kind == "file" and len(now.content) == now.size:
        undo = (write_command(args.path, now.content, now.mode, now.owner, now.group),)
    diff = f"{args.path}: secret content, not shown" if args.secret else unified(now.text, "", args.path)
    return Change(f"{args.path} must not be there", (Command(f"rm -f {quote(args.path)}"),), undo, diff, (args.path,))


OPERATION = Operation("file", Args, probes, plan)
