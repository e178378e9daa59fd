"""``qaicl provision``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qaicl.cli.output import Format, Output, confirm, emit_json, say

if TYPE_CHECKING:
    from qaicl.provision.events import Listener
    from qaicl.provision.inventory import Host
    from qaicl.provision.provisioning import Provisioning

app = typer.Typer(help="Turn bare machines into a cluster, over SSH.", no_args_is_help=True)

Inventory = Annotated[Path, typer.Option("-f", "--file", help="The inventory.", metavar="CLUSTER.YAML")]
Limit = Annotated[list[str] | None, typer.Option("--limit", help="Only this host; may be repeated.", metavar="HOST")]
Tags = Annotated[
    list[str] | None, typer.Option("--tags", help="Only steps with this tag, such as a playbook's name.", metavar="TAG")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Wheel = Annotated[
    Path | None,
    typer.Option("--wheel", help="Install this wheel of qaicl.", metavar="FILE", exists=True, dir_okay=False),
]
Directory = Annotated[
    Path | None, typer.Option("--playbooks", help="Directory of playbooks, instead of the shipped ones.")
]
DEFAULT = Path("cluster.yaml")


@app.callback()
def group() -> None:
    """Turn bare machines into a cluster, over SSH."""


def _ask_secret(name: str) -> str:
    return str(typer.prompt(name, hide_input=True, err=True))


def _confirm_key(host: Host, fingerprint: str) -> bool:
    say(f"{host.name} ({host.ssh_address}:{host.port}) has no pinned host key. It shows {fingerprint}")
    return typer.confirm("Is that the machine's fingerprint? It will be pinned", err=True)


@contextmanager
def _listener(output: Format) -> Iterator[Listener]:
    from qaicl.provision import render

    if output is Format.json:
        yield render.json_line
    elif sys.stderr.isatty():
        with render.live() as listen:
            yield listen
    else:
        yield render.plain


def _silent(event: object) -> None:
    return


def _from_the_start(output: Format) -> Listener:
    """A program reads every event; a person has the plan to read before there is anything to follow."""
    from qaicl.provision import render

    return render.json_line if output is Format.json else _silent


def _provisioning(
    ctx: typer.Context, file: Path, listener: Any, wheel: Path | None = None, playbooks: Path | None = None
) -> Provisioning:
    from qaicl import settings
    from qaicl.provision import inventory
    from qaicl.provision.provisioning import Provisioning

    person = sys.stdin.isatty()
    return Provisioning(
        inventory=inventory.load(file),
        settings=settings.load(ctx.obj),
        listener=listener,
        say=say,
        ask=_ask_secret if person else None,
        confirm_key=_confirm_key if person else None,
        wheel=wheel,
        playbook_directory=playbooks,
    )


@app.command(epilog="Example: qaicl provision init cluster.yaml")
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = DEFAULT,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    output: Output = Format.text,
) -> None:
    """Write a commented inventory to begin with."""
    from qaicl.errors import ProvisionError, UsageError
    from qaicl.provision.inventory import EXAMPLE

    if file.exists() and not force:
        raise UsageError(f"{file} is there already", why="it would be lost", fix="name another file, or add --force")
    try:
        file.write_text(EXAMPLE, encoding="utf-8")
    except OSError as error:
        raise ProvisionError(
            f"cannot write {file}", why=error.strerror or str(error), fix="name a place that is yours"
        ) from error
    if output is Format.json:
        emit_json({"written": str(file)})
    say(f"wrote {file}; enter your machines, then: qaicl provision plan -f {file}")


@app.command(epilog="Example: qaicl provision plan -f cluster.yaml --save plan.json")
def plan(
    ctx: typer.Context,
    file: Inventory = DEFAULT,
    limit: Limit = None,
    tags: Tags = None,
    save: Annotated[Path | None, typer.Option("--save", help="Keep the plan for `apply PLAN`.", metavar="PLAN")] = None,
    wheel: Wheel = None,
    playbooks: Directory = None,
    output: Output = Format.text,
) -> None:
    """Show what would change, and why. Exit code 3 if something would, 0 if nothing."""
    from qaicl.provision import apply as applying
    from qaicl.provision import plan as planning
    from qaicl.provision import render
    from qaicl.provision.provisioning import Choice

    choice = Choice(tuple(limit or ()), tuple(tags or ()))
    provisioning = _provisioning(ctx, file, _silent, wheel, playbooks)
    with provisioning.session(choice, locked=False) as session:
        plans = provisioning.plan(session, choice)
        document = provisioning.saved(plans, choice)
        failure = applying.verdict(session.failures, ())
    if save:
        planning.write(save, document)
    if output is Format.json:
        emit_json(document)
    else:
        for line in render.plan_lines(document):
            typer.echo(line)
    if failure:
        raise failure
    if any(entry.changes for entry in plans):
        if save:
            say(f"carry it out with: qaicl provision apply {save} -f {file}")
        raise typer.Exit(3)
    say("nothing to change")


@app.command(epilog="Example: qaicl provision apply -f cluster.yaml --yes")
def apply(
    ctx: typer.Context,
    plan_file: Annotated[
        Path | None, typer.Argument(help="A saved plan: do that and nothing else.", metavar="[PLAN]")
    ] = None,
    file: Inventory = DEFAULT,
    limit: Limit = None,
    tags: Tags = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after showing the plan.")] = False,
    wheel: Wheel = None,
    playbooks: Directory = None,
    output: Output = Format.text,
) -> None:
    """Bring the machines to the described state. What was interrupted goes on where it was."""
    from qaicl.errors import UsageError
    from qaicl.provision import apply as applying
    from qaicl.provision import checks, render
    from qaicl.provision import plan as planning
    from qaicl.provision.provisioning import Choice, check_same_choice

    if plan_file and (limit or tags):
        raise UsageError("a plan has its own hosts and tags", why="--limit or --tags is given", fix="make another plan")
    saved = planning.read(plan_file) if plan_file else None
    provisioning = _provisioning(ctx, file, _silent if dry_run else _from_the_start(output), wheel, playbooks)
    choice = (
        check_same_choice(saved, provisioning.inventory) if saved else Choice(tuple(limit or ()), tuple(tags or ()))
    )
    findings: list[checks.Finding] = []
    with provisioning.session(choice, locked=not dry_run) as session:
        plans = provisioning.plan(session, choice)
        document = provisioning.saved(plans, choice)
        if saved:
            provisioning.check_against(saved, plans)
        if output is Format.text and not saved:
            for line in render.plan_lines(document):
                typer.echo(line)
        changes = sum(len(entry.changes) for entry in plans)
        if dry_run:
            if output is Format.json:
                emit_json(document)
            if failure := applying.verdict(session.failures, ()):
                raise failure
            raise typer.Exit(3 if changes else 0)
        if changes:
            confirm(f"Make {changes} changes on {len(plans)} machines?", yes)
        with _listener(output) as listen:
            provisioning.listen(listen)
            if output is Format.text:
                session.tell_again(plans)
            outcomes = provisioning.apply(session, plans)
            failure = applying.verdict(session.failures, outcomes)
            if failure is None and not choice.tags:
                findings = provisioning.check(session)
                failure = checks.verdict(findings)
            provisioning.events("run-done", text=str(failure) if failure else "", ok=failure is None)
    if output is Format.text and findings:
        render.check_table(findings)
    if failure:
        raise failure
    name = provisioning.inventory.cluster
    part = choice.limit or choice.tags
    say(
        f"done with this part. What is left: qaicl provision plan -f {file}"
        if part
        else f'done. Ask it: qaicl --context {name} ask "Why is the sky blue?"'
    )


@app.command(epilog="Example: qaicl provision verify -f cluster.yaml")
def verify(ctx: typer.Context, file: Inventory = DEFAULT, limit: Limit = None, output: Output = Format.text) -> None:
    """Look whether everything is as it must be: GPU, model, daemons, network, Redis, clocks, disks."""
    from qaicl.provision import apply as applying
    from qaicl.provision import checks, render
    from qaicl.provision.provisioning import Choice

    provisioning = _provisioning(ctx, file, _silent)
    with provisioning.session(Choice(tuple(limit or ())), locked=False) as session:
        findings = provisioning.check(session)
        failure = applying.verdict(session.failures, ())
    if output is Format.json:
        emit_json(findings)
    else:
        render.check_table(findings)
    if failure := failure or checks.verdict(findings):
        raise failure


@app.command(epilog="Example: qaicl provision status -f cluster.yaml")
def status(ctx: typer.Context, file: Inventory = DEFAULT, limit: Limit = None, output: Output = Format.text) -> None:
    """Show each machine: reachable, locked by whom, the release there, and where the last run stood."""
    from qaicl.provision.provisioning import Choice

    rows = _provisioning(ctx, file, _silent).status(Choice(tuple(limit or ())))
    if output is Format.json:
        emit_json(rows)
        return
    from rich.table import Table
    from rich.text import Text

    from qaicl.cli.output import console

    table = Table("machine", "address", "reachable", "release", "locked by", "last run", "", box=None)
    for row in rows:
        reachable = "yes" if row["reachable"] else f"no: {row['why']}"
        state = f"{row['last_state']} {row['last_step']} {row['last_text']}".strip()
        cells = (row["host"], row["address"], reachable, row["release"], row["locked_by"], row["last_run"], state)
        table.add_row(*(Text(str(cell)) for cell in cells))
    console().print(table)


@app.command(epilog="Example: qaicl provision unlock -f cluster.yaml --limit vm-2")
def unlock(
    ctx: typer.Context, file: Inventory = DEFAULT, limit: Limit = None, yes: Yes = False, output: Output = Format.text
) -> None:
    """Take the lock from a controller that is gone for good."""
    from qaicl.provision.provisioning import Choice

    confirm("Another controller may still be at work. Take its lock?", yes)
    found, failure = _provisioning(ctx, file, _silent).unlock(Choice(tuple(limit or ())))
    if output is Format.json:
        emit_json([{"host": host, "was_held_by": holder} for host, holder in found.items()])
    else:
        for host, holder in found.items():
            typer.echo(f"{host}: {f'taken from {holder}' if holder else 'was not locked'}")
    if failure:
        raise failure


@app.command(epilog="Example: qaicl provision bundle -f cluster.yaml")
def bundle(
    ctx: typer.Context,
    file: Inventory = DEFAULT,
    python: Annotated[str, typer.Option("--python", help="The machines' Python.")] = "3.11",
    machine: Annotated[str, typer.Option("--machine", help="The machines' architecture.")] = "x86_64",
    release: Annotated[str, typer.Option("--release", help="The machines' distribution, by codename.")] = "bookworm",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch newer packages too, with `packages: bundle` in the inventory.")
    ] = False,
    check: Annotated[bool, typer.Option("--verify", help="Read every file again and compare its sha256.")] = False,
    wheel: Wheel = None,
    playbooks: Directory = None,
    output: Output = Format.text,
) -> None:
    """Gather on this machine what the others will install; they need no internet for it."""
    from qaicl.provision import bundle as bundling
    from qaicl.provision import package_bundle

    sources = _provisioning(ctx, file, _silent, wheel, playbooks).gather_ahead(
        release, python, machine, refresh=refresh
    )
    if check:
        bundling.verify(sources.bundle, sources.inventory.model, sources.model_files)
        package_bundle.verify(sources.packages)
    files = (*sources.bundle.wheels, *sources.model_files, *sources.packages)
    size = sum(entry.size for entry in files)
    name = sources.bundle.manifest.release
    if output is Format.json:
        emit_json({"directory": str(sources.bundle.directory), "release": name, "bytes": size})
        return
    typer.echo(f"{name}: {len(files)} files, {size / 1e6:.0f} MB")


@app.command(epilog="Example: qaicl provision upgrade -f cluster.yaml --yes")
def upgrade(
    ctx: typer.Context,
    file: Inventory = DEFAULT,
    limit: Limit = None,
    yes: Yes = False,
    wheel: Wheel = None,
    output: Output = Format.text,
) -> None:
    """Bring a running cluster to this release, one machine after the other, while it goes on answering."""
    from qaicl.provision import upgrade as upgrading
    from qaicl.provision.provisioning import Choice

    confirm("Upgrade the machines one by one?", yes)
    with _listener(output) as listen:
        changed = upgrading.run(_provisioning(ctx, file, listen, wheel), Choice(tuple(limit or ())))
    say(f"upgraded {', '.join(changed)}" if changed else "nothing to upgrade")
