"""``upload``: files of the bundle in a directory of the host, verified there."""

from __future__ import annotations

import hashlib

from qaicl.provision.operations.base import (
    STATE,
    Arguments,
    BundleFile,
    Change,
    Command,
    Operation,
    Probe,
    Situation,
    Upload,
    quote,
)
from qaicl.provision.operations.file import AbsolutePath


class Args(Arguments, frozen=True):
    """Arguments of ``upload``."""

    destination: AbsolutePath
    files: list[BundleFile]
    owner: str = "root"
    group: str = "root"

    @property
    def marker(self) -> str:
        """Where the host keeps ``sha256 size mtime name`` of every file that was verified there."""
        return f"{STATE}/uploads/{hashlib.sha256(self.destination.encode()).hexdigest()[:16]}"


def probes(args: Args) -> tuple[Probe, ...]:
    return (
        Probe(
            f"upload:{args.destination}",
            f"cat {args.marker} 2>/dev/null; echo =; cd {quote(args.destination)} 2>/dev/null && "
            "find . -type f -printf '%s %T@ %P\\n'; true",
        ),
    )


def plan(args: Args, situation: Situation) -> Change | None:
    lines = situation.found[f"upload:{args.destination}"].stdout.splitlines()
    middle = lines.index("=")
    recorded = {}
    for line in lines[:middle]:
        fields = line.split(" ", 3)
        if len(fields) == 4:  # another line was cut short: its file counts as unverified
            recorded[fields[3]] = (fields[0], fields[1], fields[2])
    present = {}
    for line in lines[middle + 1 :]:
        size, mtime, name = line.split(" ", 2)
        present[name] = (size, mtime)
    missing = tuple(
        file
        for file in args.files
        if recorded.get(file.name, ("",))[0] != file.sha256 or recorded[file.name][1:] != present.get(file.name)
    )
    if not missing:
        return None
    total = sum(file.size for file in missing)
    upload = Upload(args.destination, missing, tuple(args.files), args.marker, args.owner, args.group)
    fresh = [file.name for file in missing if file.name not in present]
    undo = " ".join(quote(f"{args.destination}/{name}") for name in fresh)
    return Change(
        f"{len(missing)} of {len(args.files)} files are missing or differ ({total / 1e6:.1f} MB)",
        (upload,),
        (Command(f"rm -f {undo}"),) if len(fresh) == len(missing) else None,
        "\n".join(f"{'+' if file.name in fresh else '~'}{file.name} {file.sha256[:12]}" for file in missing),
        (args.destination, *(f"{args.destination}/{file.name}" for file in missing)),
    )


OPERATION = Operation("upload", Args, probes, plan)
