"""``line``: one line in a file that is somebody else's otherwise."""

from __future__ import annotations

import re
from dataclasses import replace

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote, unified
from qaicl.provision.operations.file import AbsolutePath
from qaicl.provision.operations.paths import parse_path, path_probe, write_command


class Args(Arguments, frozen=True):
    """Arguments of ``line``."""

    path: AbsolutePath
    line: str
    match: str = ""
    """Regular expression of the line to replace; the first that matches. Empty: a line equal to ``line``."""
    absent: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is not a regular expression: {error}") from error


def probes(args: Args) -> tuple[Probe, ...]:
    return (path_probe(args.path),)


def plan(args: Args, situation: Situation) -> Change | None:
    now = parse_path(situation.found[f"path:{args.path}"])
    if not now.kind and args.absent:
        return None
    if now.kind not in ("", "file") or len(now.content) != now.size:
        reason = f"{args.path} is not a text file of moderate size"
        return Change(reason, (Command(f"echo {quote(reason)} >&2; exit 1"),))
    # The file is somebody else's: bytes that are not UTF-8, and line ends that are not ours, stay what they are.
    lines = now.content.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if now.content else []
    plain = [line.removesuffix("\r") for line in lines]
    hits = [i for i, line in enumerate(plain) if (re.search(args.match, line) if args.match else line == args.line)]
    if args.absent:
        wanted = [line for i, line in enumerate(lines) if i not in hits]
    elif hits:
        first = hits[0]
        wanted = [args.line if i == first and plain[i] != args.line else line for i, line in enumerate(lines)]
    elif args.line in plain:
        wanted = lines
    else:
        wanted = [*lines, args.line]
    if wanted == lines:
        return None
    content = "".join(f"{line}\n" for line in wanted).encode("utf-8", "surrogateescape")
    mode, owner, group = (now.mode, now.owner, now.group) if now.kind else ("0644", "root", "root")
    restore = write_command(args.path, now.content, mode, owner, group)
    undo = restore if now.kind else Command(f"rm -f {quote(args.path)}")
    reason = f"{args.path} has a line too many" if args.absent else f"{args.path} lacks a line"
    write = write_command(args.path, content, mode, owner, group)
    # A package that an earlier step installs may bring the file, and what it holds must not be lost.
    path = quote(args.path)
    same = f'[ "$(sha256sum < {path} | cut -c1-64)" = {now.sha256} ]' if now.kind else f"[ ! -e {path} ]"
    changed = f"{args.path} is no longer as it was when the plan was made; run it again"
    write = replace(write, script=f"{same} || {{ echo {quote(changed)} >&2; exit 1; }}\n{write.script}")
    diff = unified(now.text, content.decode("utf-8", "replace"), args.path)
    return Change(reason, (write,), (undo,), diff, (args.path,))


OPERATION = Operation("line", Args, probes, plan)
