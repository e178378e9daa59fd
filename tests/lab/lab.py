"""The lab at a terminal: ``python tests/lab/lab.py up|down|status|…`` (docs/lab.md)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from harness.config import CONTROLLER, GUESTS, LabConfig
from harness.errors import LabError
from harness.lab import Lab

HOSTS = [guest.name for guest in GUESTS]


def say(message: str) -> None:
    sys.stderr.write(f"lab: {message}\n")
    sys.stderr.flush()


def show(lab: Lab, as_json: bool) -> None:
    """What is up, as a table or as JSON."""
    rows = lab.status() if lab.is_up else []
    if as_json:
        found = {"name": lab.config.name, "up": lab.is_up, "machines": rows, "cuts": lab.network.cuts if rows else []}
        sys.stdout.write(json.dumps(found | {"holder": lab.holder}, indent=2) + "\n")
        return
    sys.stdout.write(f"lab {lab.config.name}: {'up' if lab.is_up else 'down'}\n")
    for row in rows:
        sys.stdout.write(f"  {row['name']}  {row['address']:<10}  power {row['power']:<3}  ssh {row['ssh']}\n")
    for cut in lab.network.cuts if rows else []:
        sys.stdout.write(f"  cut: {cut}\n")
    if lab.holder:
        sys.stdout.write(f"  {lab.holder}\n")


def become(command: list[str], lab: Lab) -> NoReturn:
    """Turn into the command, so that the terminal and its signals are the command's own."""
    sys.stdout.flush()
    os.execvpe(command[0], command, lab.environment())


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="lab.py", description="Three Debian machines on this one. Needs root.")
    actions = found.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, help_: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help_, description=help_)

    action("up", "boot three fresh machines; whatever an earlier run left is removed first")
    action("down", "remove everything of this lab")
    action("status", "what is up").add_argument("-o", dest="output", choices=["table", "json"], default="table")
    shell = action("shell", "a shell, or one command, on a machine")
    shell.add_argument("host", choices=HOSTS)
    shell.add_argument("--user", default="root", help="root, admin (may sudo) or plain (may not)")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    action("run", "run a program on the controller: these files, the lab's network").add_argument(
        "command", nargs=argparse.REMAINDER
    )
    for name, help_ in (
        ("power-cut", "take the machine's power away"),
        ("power-on", "switch the machine on and wait until it answers"),
        ("reboot", "systemctl reboot, and wait until the machine answers again"),
    ):
        action(name, help_).add_argument("host", choices=HOSTS, nargs="+" if name == "reboot" else None)
    for name, help_ in (
        ("save", "shut down in good order, keep the disks under a name, start again"),
        ("restore", "bring all machines back to a saved state; what came after it is lost"),
    ):
        action(name, help_).add_argument("snapshot")
    cut = action("partition", "drop all packets between these machines and all others")
    cut.add_argument("host", choices=[*HOSTS, CONTROLLER], nargs="+")
    cut.add_argument("--from", dest="other", choices=[*HOSTS, CONTROLLER], nargs="+", default=[])
    action("heal", "undo every partition")
    return found


def main() -> int:
    arguments = parser().parse_args()
    try:
        lab = Lab(LabConfig.from_environment(), say)
        if arguments.action == "status":
            show(lab, arguments.output == "json")
        elif arguments.action == "shell":
            become([*lab.ssh_command(arguments.host, user=arguments.user), *arguments.command], lab)
        elif arguments.action == "run":
            become(lab.network.inside(*arguments.command), lab)
        else:
            changes: dict[str, Callable[[], None]] = {
                "up": lab.up,
                "down": lab.down,
                "save": lambda: lab.save(arguments.snapshot),
                "restore": lambda: lab.restore(arguments.snapshot),
                "power-cut": lambda: lab.power_cut(arguments.host),
                "power-on": lambda: lab.power_on(arguments.host),
                "reboot": lambda: lab.reboot(*arguments.host),
                "partition": lambda: lab.partition(arguments.host, arguments.other),
                "heal": lab.heal,
            }
            with lab.locked():
                changes[arguments.action]()
    except LabError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
