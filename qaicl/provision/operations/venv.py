"""``venv``: a virtual environment from wheels that lie on the host, and the link that makes it the current one."""

from __future__ import annotations

from qaicl.provision.operations.base import Arguments, Change, Command, Operation, Probe, Situation, quote
from qaicl.provision.operations.file import AbsolutePath


class Args(Arguments, frozen=True):
    """Arguments of ``venv``."""

    path: AbsolutePath
    wheels: AbsolutePath
    """Directory with the wheels and the requirement file."""
    requirements: str
    """Name of the file that pins each wheel with its sha256."""
    digest: str
    """Of everything that shall be in it; another digest means to build it anew."""
    base: str = ""
    """Another environment whose packages this one sees, so that a release need not bring the big ones again."""
    link: str = ""
    python: str = "/usr/bin/python3"


def probes(args: Args) -> tuple[Probe, ...]:
    return (
        Probe(
            f"venv:{args.path}",
            # Always a line of its own: a power cut can leave the marker there and empty.
            f'echo "$(cat {quote(args.path)}/.complete 2>/dev/null || echo -)"; '
            f"{f'readlink {quote(args.link)} || echo -' if args.link else 'echo'}",
        ),
    )


def plan(args: Args, situation: Situation) -> Change | None:
    built, _, linked = (line.strip() for line in situation.found[f"venv:{args.path}"].stdout.partition("\n"))
    path = quote(args.path)
    commands: list[Command] = []
    undo: list[Command] = []
    reasons: list[str] = []
    if built != args.digest:
        # The marker comes last: an environment without it is half built and made anew.
        install = (
            f"--disable-pip-version-check --no-cache-dir --quiet install --no-index --no-deps --require-hashes "
            f"--find-links {quote(args.wheels)} -r {quote(f'{args.wheels}/{args.requirements}')}"
        )
        if args.base:
            base = quote(args.base)
            make = (
                f"{quote(args.python)} -m venv --without-pip {path}\n"
                f"for d in {path}/lib/python*/site-packages; do\n"
                f'  [ -d {base}"${{d#{path}}}" ] || {{ echo "{args.base} is of another Python" >&2; exit 1; }}\n'
                f'  echo {base}"${{d#{path}}}" > "$d/base.pth"\n'
                "done\n"
                f"{base}/bin/pip --python {path}/bin/python {install}\n"
            )
        else:
            make = f"{quote(args.python)} -m venv {path}\n{path}/bin/pip {install}\n"
        build = (
            f"set -e; umask 022; rm -rf {path}; install -d {quote(args.path.rpartition('/')[0] or '/')}\n"
            f"{make}sync -f {path}; echo {quote(args.digest)} > {path}/.complete"
        )
        commands.append(Command(build, timeout=1800.0))
        undo.append(Command(f"rm -rf {path}"))
        reasons.append(f"{args.path} is not built" if built == "-" else f"{args.path} holds something else")
    if args.link and linked != args.path:
        link = quote(args.link)
        # Its time tells since when it has been the current one: the one before is kept by that.
        commands.append(Command(f"touch -c {path}; ln -sfnT {path} {link}.new && mv -fT {link}.new {link}"))
        old = f"ln -sfnT {quote(linked)} {link}.new && mv -fT {link}.new {link}" if linked != "-" else f"rm -f {link}"
        undo.insert(0, Command(old))
        reasons.append(f"{args.link} points to {'nothing' if linked == '-' else linked}")
    if not commands:
        return None
    diff = f"-{linked}\n+{args.path}" if args.link and linked != args.path else ""
    return Change(
        " and ".join(reasons), tuple(commands), tuple(undo), diff, tuple(filter(None, (args.path, args.link)))
    )


OPERATION = Operation("venv", Args, probes, plan)
