"""``package``: packages of the distribution, from the machine's mirror or from the bundle."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qaicl.provision.operations.base import (
    Action,
    Arguments,
    Change,
    Command,
    Install,
    Operation,
    Probe,
    Situation,
    quote,
)

APT = (
    "DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -q -y -o DPkg::Lock::Timeout=600 "
    "-o Dpkg::Options::=--force-confold -o Acquire::Retries=2 -o Acquire::http::Timeout=20"
)

FINISH = """for n in $(seq 300); do
  s=0; said=$(LC_ALL=C dpkg --configure -a 2>&1) || s=$?
  case "$s $said" in 0*) break ;; *"lock was locked"*|*"database is locked"*) sleep 2 ;; *) break ;; esac
done
[ "$s" = 0 ] || ( echo "$said" >&2; exit 1 )
"""
"""Shell: finish what an interrupted run left half installed, after whoever holds dpkg's lock (a new machine's own
upgrade, often) is done; ten minutes at most."""

WAITING = """waiting() {
  for n in $(seq 300); do
    s=0; { said=$("$@" 2>&1 >&3); } 3>&1 || s=$?
    case "$s $said" in 0*) break ;; */lists/lock*|*/archives/lock*) sleep 2 ;; *) break ;; esac
  done
  [ -z "$said" ] || echo "$said" >&2
  return "$s"
}
"""
"""Shell: a function that runs apt, and again while somebody else (a new machine's daily update, often) holds one of the
locks that apt itself does not wait for; ten minutes at most."""


class Args(Arguments, frozen=True):
    """Arguments of ``package``."""

    names: Annotated[list[str], msgspec.Meta(min_length=1)]
    absent: bool = False


def probes(args: Args) -> tuple[Probe, ...]:
    names = " ".join(quote(name) for name in args.names)
    return (
        Probe(
            f"packages:{','.join(args.names)}",
            f"dpkg-query -W -f '${{Package}} ${{db:Status-Abbrev}} ${{Version}}\\n' {names}; true",
        ),
    )


def plan(args: Args, situation: Situation) -> Change | None:
    installed: dict[str, str] = {}
    for line in situation.found[f"packages:{','.join(args.names)}"].stdout.splitlines():
        name, status, *version = line.split()
        # The first letter is only what is wanted of it, such as "h" for one on hold.
        if status[1:] == "i":
            installed[name] = version[0] if version else ""
    if args.absent:
        present = [name for name in args.names if name in installed]
        if not present:
            return None
        names = " ".join(quote(name) for name in present)
        return Change(
            f"{', '.join(present)} must not be installed",
            (Command(f"{APT} remove {names}"),),
            # The packages that were taken from the bundle need not be in it any more.
            None if situation.packages else (Command(f"{APT} install --no-install-recommends {names}"),),
            "\n".join(f"-{name} {installed[name]}" for name in present),
            tuple(f"package:{name}" for name in present),
        )
    missing = [name for name in args.names if name not in installed]
    if not missing:
        return None
    names = " ".join(quote(name) for name in missing)
    from_mirror = (
        f"set -e\n{FINISH}{WAITING}waiting env {APT} -o APT::Update::Error-Mode=any update\n"
        f"waiting env {APT} install --no-install-recommends {names}"
    )
    install: Action = Command(from_mirror, timeout=1800.0)
    if situation.packages:
        install = Install(tuple(missing), situation.packages)
    return Change(
        f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
        (install,),
        (Command(f"{APT} remove {names}"),),
        "\n".join(f"+{name}" for name in missing),
        tuple(f"package:{name}" for name in missing),
    )


OPERATION = Operation("package", Args, probes, plan)
