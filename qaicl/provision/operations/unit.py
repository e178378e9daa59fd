"""``unit``: a systemd unit file; systemd is told of it in the same step."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation
from qaicl.provision.operations.file import Args as FileArgs
from qaicl.provision.operations.file import plan_file
from qaicl.provision.operations.paths import parse_path, path_probe

RELOAD = Command("systemctl daemon-reload")


class Args(Arguments, frozen=True):
    """Arguments of ``unit``; ``template`` is rendered into ``content`` by the playbook loader."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9@_.-]+\.(service|timer|socket|target)$")]
    content: str = ""
    template: str = ""
    absent: bool = False

    @property
    def path(self) -> str:
        return f"/etc/systemd/system/{self.name}"


def probes(args: Args) -> tuple[Probe, ...]:
    return (path_probe(args.path),)


def plan(args: Args, situation: Situation) -> Change | None:
    wanted = FileArgs(path=args.path, content=args.content, absent=args.absent)
    change = plan_file(wanted, parse_path(situation.found[f"path:{args.path}"]))
    if change is None:
        return None
    actions = change.actions
    if args.absent:
        stop = Command(f"systemctl disable --now {args.name} 2>/dev/null; true")
        actions = (stop, *actions)
    return replace(change, actions=(*actions, RELOAD), undo=None if change.undo is None else (*change.undo, RELOAD))


OPERATION = Operation("unit", Args, probes, plan)
