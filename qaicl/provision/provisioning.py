"""One cluster's provisioning, from the inventory to the context: what the commands call."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qaicl.errors import (
    BundleError,
    HostRefusedError,
    HostUnreachableError,
    ProvisionError,
    QaiclError,
    UsageError,
)
from qaicl.provision import apply, bundle, install, journal, lock, package_bundle, ssh
from qaicl.provision import plan as planning
from qaicl.provision.apply import Outcome
from qaicl.provision.apt import ARCHITECTURES, Target
from qaicl.provision.checks import Checker, Finding
from qaicl.provision.context import write_context
from qaicl.provision.events import Events, Listener
from qaicl.provision.facts import Facts
from qaicl.provision.identity import CLIENT, Keyring, daemons
from qaicl.provision.inventory import Host, Inventory
from qaicl.provision.operations import package
from qaicl.provision.package_bundle import PackageBundle
from qaicl.provision.playbook import Playbooks, Step, shipped
from qaicl.provision.secrets import SecretStore, write_private
from qaicl.provision.session import Machine, Session, in_parallel
from qaicl.provision.variables import Sources, variables
from qaicl.settings import Paths, Settings

PYTHON = {("debian", "12"): "3.11", ("debian", "13"): "3.13", ("ubuntu", "24.04"): "3.12"}
"""The distributions' own Python, for a machine that has none yet."""
RELEASES = {"bookworm": ("debian", "12"), "trixie": ("debian", "13"), "noble": ("ubuntu", "24.04")}
"""The distributions by codename."""


@dataclass(frozen=True)
class Choice:
    """What of the inventory and the playbook is meant."""

    limit: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass
class Provisioning:
    """Everything about one cluster on the operator's machine.

    Args:
        ask: asks the person for a secret; None where nobody is there.
        confirm_key: shown a host and its fingerprint, says whether to pin it; None where nobody is there.
        wheel: qaicl as a wheel, in the place of the one built from here.
    """

    inventory: Inventory
    settings: Settings
    listener: Listener
    say: Callable[[str], None]
    ask: Callable[[str], str] | None = None
    confirm_key: Callable[[Host, str], bool] | None = None
    wheel: Path | None = None
    playbook_directory: Path | None = None

    def __post_init__(self) -> None:
        private = self.context_directory / "provision"
        self.secrets = SecretStore(self.inventory.secrets, private / "secrets", self.ask)
        self.keyring = Keyring(private / "keys")
        self.events = Events(self.listener, self.secrets.redact)
        self.playbooks = Playbooks(self.playbook_directory or shipped())
        self._pinned = private / "host_keys"

    def listen(self, listener: Listener) -> None:
        """Hand what happens from now on to another listener."""
        self.events.listener = listener

    # --- places ----------------------------------------------------------------------------------

    @property
    def paths(self) -> Paths:
        return self.settings.paths

    @property
    def context_directory(self) -> Path:
        return self.paths.context(self.inventory.cluster)

    @property
    def journals(self) -> Path:
        return self.paths.run(self.inventory.cluster) / "provision"

    @property
    def bundle_directory(self) -> Path:
        return self.paths.data / "bundles" / self.inventory.cluster

    # --- the phases ------------------------------------------------------------------------------

    @contextmanager
    def session(self, choice: Choice, *, locked: bool) -> Iterator[Session]:
        """Connected machines; closed at the end.

        Raises:
            HostRefusedError: a machine is not who it should be, or does not let us in. Nothing was sent anywhere.
            LockedError: another controller is at work.
        """
        opened = Session(self.secrets, self.events, self.inventory.connect_timeout)
        try:
            hosts, silent = self._with_keys(choice)
            for name, error in silent.items():
                opened.failed(name, error)
            opened.connect(hosts)
            if locked:
                opened.lock()
            yield opened
        finally:
            opened.close()

    def _with_keys(self, choice: Choice) -> tuple[list[Host], dict[str, HostUnreachableError]]:
        """The chosen hosts with their pinned keys, and those that have none and do not show one."""
        hosts, silent = [], {}
        for host in self.inventory.limited(choice.limit):
            try:
                hosts.append(self._with_key(host))
            except HostUnreachableError as error:
                silent[host.name] = error
        return hosts, silent

    def _with_key(self, host: Host) -> Host:
        """The host with its pinned key; one that has none is asked for and the person decides."""
        if host.host_key:
            return host
        path = self._pinned / host.name
        if path.exists():
            return replace(host, host_key=path.read_text(encoding="ascii").strip())
        if self.confirm_key is None:
            return host  # connecting says what to do
        key = ssh.offered_host_key(host, self.inventory.connect_timeout)
        if not self.confirm_key(host, ssh.fingerprint(key)):
            raise HostRefusedError(
                f"the host key of {host.name} was not confirmed", why="nothing was sent", fix="pin it in the inventory"
            )
        line = f"{key.get_name()} {key.get_base64()}"
        write_private(path, line.encode() + b"\n")
        return replace(host, host_key=line)

    def sources(self, session: Session) -> Sources:
        """Bundle, model, keys and secrets; gathers what is missing here.

        Raises:
            BundleError: the machines differ in Python or architecture, or something cannot be gathered.
        """
        installed: dict[str, str] = {}
        if self.inventory.packages == "bundle":
            for found in in_parallel(lambda machine: install.installed(machine.connection), session.machines):
                installed |= found
        return self.gather({machine.host.name: machine.facts for machine in session.machines}, installed)

    def gather_ahead(self, codename: str, python: str, arch: str, *, refresh: bool) -> Sources:
        """The same for machines that nobody has looked at yet.

        Raises:
            UsageError: the release is not one that the playbooks know.
            BundleError: something cannot be gathered.
        """
        if codename not in RELEASES or arch not in ARCHITECTURES:
            raise UsageError(
                f"nothing can be gathered for {codename} on {arch}",
                why=f"known are {', '.join(RELEASES)} on {', '.join(ARCHITECTURES)}",
                fix="correct --release or --machine",
            )
        name, version = RELEASES[codename]
        facts = Facts(os=name, os_version=version, codename=codename, python=python, arch=arch)
        return self.gather({"": facts}, {}, refresh=refresh)

    def gather(self, known: Mapping[str, Facts], installed: Mapping[str, str], *, refresh: bool = False) -> Sources:
        """Bundle, model, keys and secrets for machines that need not be reachable.

        Args:
            known: a machine's name → its facts, at least one; the others count as the first, without its devices.
            installed: the packages that machines are known to have, each with its source package.
            refresh: fetch the distribution's packages anew where the bundle has them.

        Raises:
            BundleError: the machines differ in Python or architecture, or something cannot be gathered.
        """
        self.keyring.ensure([CLIENT, *(daemon.name for daemon in daemons(self.inventory))])
        offline = self.inventory.packages == "bundle"
        targets = {
            (
                facts.python or PYTHON.get((facts.os, facts.os_version), "3.11"),
                facts.arch,
                f"{facts.os} {facts.codename}" if offline else "",
            )
            for facts in known.values()
        }
        if len(targets) > 1:
            raise BundleError(
                "the machines differ in Python or architecture",
                why=", ".join(f"{python} on {arch} {release}".strip() for python, arch, release in sorted(targets)),
                fix="use one distribution for all of them",
            )
        python, arch, _ = next(iter(targets))
        gathered = bundle.ensure(self.bundle_directory, python=python, machine=arch, say=self.say, wheel=self.wheel)
        models = self.paths.models(self.settings.values.models)
        sources = Sources(
            self.inventory, gathered, bundle.model_files(models, self.inventory.model), self.secrets, self.keyring
        )
        if offline:
            sources = replace(sources, packages=self._packages(sources, known, installed, refresh).files)
        return sources

    def _packages(
        self, sources: Sources, known: Mapping[str, Facts], installed: Mapping[str, str], refresh: bool
    ) -> PackageBundle:
        """The packages that the playbook installs on any machine of the inventory, whatever part of it is meant now."""
        first = next(iter(known.values()))
        names: set[str] = set()
        for host in self.inventory.hosts:
            facts = known.get(host.name, msgspec.structs.replace(first, pci_vendors=()))
            given = variables(sources, host, facts)
            for step in self.playbooks.steps(self.inventory.playbook, host, given, operation="package"):
                if isinstance(step, Step) and isinstance(step.arguments, package.Args) and not step.arguments.absent:
                    names.update(step.arguments.names)
        return package_bundle.ensure(
            self.bundle_directory,
            target=Target(os=first.os, codename=first.codename, machine=first.arch),
            names=names,
            installed=installed,
            sources=self.inventory.package_sources,
            say=self.say,
            refresh=refresh,
        )

    def plan(self, session: Session, choice: Choice) -> list[planning.HostPlan]:
        """What each machine lacks."""
        if not session.machines:
            return []
        return session.plans(self.playbooks, self.inventory.playbook, self.sources(session), choice.tags)

    def saved(self, plans: Sequence[planning.HostPlan], choice: Choice) -> planning.SavedPlan:
        """The plans as one document without secrets."""
        document = planning.SavedPlan(
            cluster=self.inventory.cluster,
            inventory=str(self.inventory.path.absolute()),
            playbook=self.inventory.playbook,
            limit=list(choice.limit),
            tags=list(choice.tags),
            hosts=[planning.saved_host(entry, self.secrets.redact, self._plan_key) for entry in plans],
        )
        return planning.SavedPlan(
            **{name: getattr(document, name) for name in document.__struct_fields__ if name != "digest"},
            digest=document.computed_digest(),
        )

    def check_against(self, saved: planning.SavedPlan, plans: Sequence[planning.HostPlan]) -> None:
        """Make sure that carrying out ``plans`` does nothing that the saved plan does not say.

        Raises:
            StalePlanError: something else would be done, or another operator saved the plan.
        """
        planning.check_against(saved, plans, self._plan_key)

    @property
    def _plan_key(self) -> bytes:
        return self.secrets.get("plan-key").encode()

    def apply(self, session: Session, plans: Sequence[planning.HostPlan]) -> list[Outcome]:
        """Carry plans out, and write the context where a part of them concerns it."""
        run_id = _run_id()
        self.events("run-started", text=run_id)
        outcomes = apply.run(session, plans, self.journals, run_id, self.secrets.redact)
        # Without a plan nothing was gathered, not even keys: no machine could be had.
        if plans and write_context(self.context_directory, self.inventory, self.keyring):
            self.events("context-written", name=self.inventory.cluster, text=str(self.context_directory))
        return outcomes

    def take_back(self, machine: Machine, outcome: Outcome) -> list[str]:
        """Undo what :meth:`apply` did on one machine; what stays, with the reason.

        Raises:
            HostUnreachableError: the machine is gone.
        """
        made = journal.Journal(self.journals, machine.host.name, f"{_run_id()}-back")
        return apply.take_back(machine, outcome.done, made, self.secrets.redact)

    def check(self, session: Session) -> list[Finding]:
        """The playbook's checks on the session's machines."""
        checks = self.playbooks.checks(self.inventory.playbook)
        return Checker(self.inventory, self.secrets).run(session, checks)

    # --- looking -----------------------------------------------------------------------------------

    def status(self, choice: Choice) -> list[dict[str, object]]:
        """Per host: reachable, locked by whom, the last run and where it stood."""
        keyed, silent = self._with_keys(choice)
        known = {host.name: host for host in keyed}
        opened = Session(self.secrets, self.events, self.inventory.connect_timeout)

        def one(host: Host) -> dict[str, object]:
            row: dict[str, object] = {"host": host.name, "address": host.address, "roles": list(host.roles)}
            try:
                if host.name in silent:
                    raise silent[host.name]
                with opened.open(known[host.name]) as connection:
                    release = connection.run("readlink /opt/qaicl/current || true").text.strip().rpartition("/")[2]
                    row |= {"reachable": True, "locked_by": lock.held_by(connection), "release": release, "why": ""}
            except QaiclError as error:
                row |= {"reachable": False, "locked_by": "", "release": "", "why": error.why or error.what}
            entries = journal.last_run(journal.read(self.journals, host.name))
            stopped = journal.interrupted_at(entries)
            return row | {
                "last_run": entries[-1].run if entries else "",
                "last_state": ("interrupted" if stopped is not None else entries[-1].state) if entries else "",
                "last_step": stopped or "",
                "last_text": entries[-1].text if entries else "",
            }

        return in_parallel(one, self.inventory.limited(choice.limit))

    def unlock(self, choice: Choice) -> tuple[dict[str, str], ProvisionError | None]:
        """End whoever holds the locks; host → who it was, empty where nobody did, and what was not reached."""
        found = {}
        with self.session(choice, locked=False) as opened:
            for machine in opened.machines:
                try:
                    found[machine.host.name] = lock.break_lock(machine.connection)
                except ProvisionError as error:
                    opened.failed(machine.host.name, error)
            return found, apply.verdict(opened.failures, ())


def _run_id() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def check_same_choice(saved: planning.SavedPlan, inventory: Inventory) -> Choice:
    """The choice with which a saved plan was made.

    Raises:
        UsageError: the plan is another cluster's.
    """
    if saved.cluster != inventory.cluster or saved.playbook != inventory.playbook:
        raise UsageError(
            f"the plan is for the cluster '{saved.cluster}' and the playbook '{saved.playbook}'",
            why=f"the inventory is of '{inventory.cluster}' with '{inventory.playbook}'",
            fix="name the inventory that the plan was made with: --file",
        )
    return Choice(tuple(saved.limit), tuple(saved.tags))
