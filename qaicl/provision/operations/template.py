"""``template``: a file whose content a Jinja template gives. The playbook loader renders it into ``content``."""

from __future__ import annotations

from qaicl.provision.operations.base import Change, Operation, Probe, Situation
from qaicl.provision.operations.file import Args as FileArgs
from qaicl.provision.operations.file import plan_file
from qaicl.provision.operations.paths import parse_path, path_probe


class Args(FileArgs, frozen=True, kw_only=True):
    """Arguments of ``template``: those of ``file``, and the template's name."""

    template: str


def probes(args: Args) -> tuple[Probe, ...]:
    return (path_probe(args.path),)


def plan(args: Args, situation: Situation) -> Change | None:
    return plan_file(args, parse_path(situation.found[f"path:{args.path}"]))


OPERATION = Operation("template", Args, probes, plan)
