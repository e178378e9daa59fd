"""``download``: a file from the network with a known checksum."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote
from qaicl.provision.operations.file import AbsolutePath, Mode


class Args(Arguments, frozen=True):
    """Arguments of ``download``."""

    url: Annotated[str, msgspec.Meta(pattern="^(https?|file)://")]
    path: AbsolutePath
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    mode: Mode = "0644"
    owner: str = "root"
    group: str = "root"


def probes(args: Args) -> tuple[Probe, ...]:
    path = quote(args.path)
    return (Probe(f"sha256:{args.path}", f"[ -f {path} ] || exit 3; sha256sum < {path} | cut -c1-64"),)


def plan(args: Args, situation: Situation) -> Change | None:
    found = situation.found[f"sha256:{args.path}"]
    now = found.stdout.strip() if found.status == 0 else ""
    if now == args.sha256:
        return None
    fetch = (
        "import sys, urllib.request, shutil\n"
        "with urllib.request.urlopen(sys.argv[1], timeout=60) as r, open(sys.argv[2], 'wb') as f: "
        "shutil.copyfileobj(r, f)"
    )
    script = (
        "set -e; umask 077\n"
        f'p={quote(args.path)}; t=$(mktemp "$(dirname "$p")/.qaicl.XXXXXX"); trap \'rm -f "$t"\' EXIT\n'
        f'python3 -c {quote(fetch)} {quote(args.url)} "$t"\n'
        f'got=$(sha256sum < "$t" | cut -c1-64)\n'
        f'[ "$got" = {args.sha256} ] || {{ echo "wrong checksum: {quote(args.url)} has $got, '
        f'expected {args.sha256}" >&2; exit 65; }}\n'
        f'chown {args.owner}:{args.group} "$t"; chmod {args.mode} "$t"; mv -fT "$t" "$p"'
    )
    reason = f"{args.path} has another checksum" if now else f"{args.path} is missing"
    undo = None if now else (Command(f"rm -f {quote(args.path)}"),)
    diff = f"-{now or 'nothing'}\n+{args.sha256}"
    return Change(reason, (Command(script, timeout=1800.0),), undo, diff, (args.path,))


OPERATION = Operation("download", Args, probes, plan)
