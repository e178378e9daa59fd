"""An apt of our own on the operator's machine: own sources, own lists, no package installed, nobody's hooks.

With no package installed, what it fetches is complete for a machine that has none of it. Every source is checked
against the distribution's archive key; of this machine's apt it takes only the way to a mirror (proxies, timeouts).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from qaicl.errors import BundleError
from qaicl.provision.bundle import sha256
from qaicl.provision.secrets import write_private

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""``uname -m`` → dpkg's word."""


class Keyring(NamedTuple):
    """Where a distribution's archive keys lie, and the package that brings them."""

    path: str
    package: str


KEYRINGS = {
    "debian": Keyring("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    "ubuntu": Keyring("/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
}

COMPONENTS = ("main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse")
"""Components of Debian's and Ubuntu's archives; another vendor's source has other ones."""

RETRIES = 2
"""How often a file is asked for again."""

_SOURCE = re.compile(r"^deb (?:\[(?P<options>[^\]]*)\] )?(?P<rest>\S+ \S.*)$")
_WAY_TO_A_MIRROR = re.compile(r"^Acquire::(https?|Check-|ForceIPv)")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What packages are for."""

    os: str
    """``debian`` or ``ubuntu``."""
    codename: str
    machine: str
    """The architecture as ``uname -m`` says it."""

    def __str__(self) -> str:
        return f"{self.os} {self.codename} on {self.machine}"


@dataclass(frozen=True)
class Package:
    """A package of the sources.

    Args:
        name: its file name in the distribution's pool.
        source: the source package it is built from.
        path: the file here.
        size: in bytes.
        record: its paragraph of the signed index, with ``Filename`` as in a flat repository.
    """

    name: str
    source: str
    path: Path
    size: int
    sha256: str
    record: str


class PrivateApt:
    """apt below one directory, which it keeps between runs: what is there already is not fetched again.

    Raises:
        BundleError: there is no apt here, no source for the target, or no key of the distribution.
    """

    def __init__(self, directory: Path, target: Target, sources: Sequence[str]) -> None:
        if shutil.which("apt-get") is None:
            raise BundleError(
                "packages cannot be gathered here",
                why="there is no apt-get on this machine",
                fix="do it on a machine with Debian or Ubuntu, or let the hosts use a mirror: packages: mirror",
            )
        self._root = directory.absolute()
        self._target = target
        lines = [_signed(line, target) for line in sources or _own_sources(target)]
        for part in ("lists/partial", "archives/partial", "none"):
            (self._root / part).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        # For the owner alone: a source and a proxy may hold a password.
        write_private(self._root / "sources.list", "".join(f"{line}\n" for line in lines).encode())
        write_private(self._root / "apt.conf", self._configuration().encode())

    def _configuration(self) -> str:
        architecture = ARCHITECTURES[self._target.machine]
        root = self._root
        kept = [line for line in _system_configuration() if _WAY_TO_A_MIRROR.match(line)]
        own = f"""\
Dir "{root}/";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
Dir::Log "{root}";
Dir::Etc "{root}/none";
Dir::Etc::main "{root}/none/apt.conf";
Dir::Etc::parts "{root}/none";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "{root}/none";
Dir::Etc::trusted "{root}/none/trusted.gpg";
Dir::Etc::trustedparts "{root}/none";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "{RETRIES}";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""
        return "\n".join(kept) + "\n" + own

    def update(self) -> None:
        """Read the sources anew.

        Raises:
            BundleError: one does not answer, or is not signed.
        """
        self._run("read the package sources", "apt-get", "-q", "update")

    def available(self, names: Iterable[str]) -> list[str]:
        """Those of the names that the sources have a package for."""
        wanted = sorted(names)
        shown = self._run("look packages up", "apt-cache", "-q", "madison", *wanted) if wanted else ""
        return sorted({line.split("|")[0].strip() for line in shown.splitlines() if "|" in line})

    def resolve(self, names: Collection[str]) -> list[Package]:
        """The packages and everything they depend on, without what they only recommend.

        Raises:
            BundleError: the sources have not got a package, or one does not go with another.
        """
        with tempfile.TemporaryDirectory(dir=self._root) as nothing:
            # With no archive at hand apt names every file, not only those that are still to be fetched.
            (Path(nothing) / "partial").mkdir()
            words = ("-qq", "-o", f"Dir::Cache::archives={nothing}", "--print-uris", "install")
            shown = self._run("find the packages", "apt-get", *words, *sorted(names))
        files = [line.split()[1] for line in shown.splitlines() if line.startswith("'")]
        if not files:
            return []
        versions = [file.removesuffix(".deb").split("_") for file in files]
        wanted = [f"{name}={version.replace('%3a', ':')}" for name, version, _ in versions]
        records = self._run("read the packages' records", "apt-cache", "show", *wanted)
        found = {package.path.name: package for package in self._packages(records)}
        return [found[file] for file in files]

    def _packages(self, records: str) -> Iterable[Package]:
        for record in records.strip().split("\n\n"):
            fields: dict[str, str] = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", record, re.MULTILINE))
            if "SHA256" not in fields:
                raise BundleError(
                    f"{fields['Package']} cannot be gathered",
                    why="the index of its source has no SHA256 of it",
                    fix="name another mirror in package_sources",
                )
            version = fields["Version"].replace(":", "%3a")
            yield Package(
                name=fields["Filename"].rpartition("/")[2],
                source=fields.get("Source", fields["Package"]).partition(" ")[0],
                path=self._root / "archives" / f"{fields['Package']}_{version}_{fields['Architecture']}.deb",
                size=int(fields["Size"]),
                sha256=fields["SHA256"],
                record=re.sub(r"^Filename: .*/", "Filename: ./", record, flags=re.MULTILINE) + "\n",
            )

    def fetch(self, names: Collection[str], packages: Iterable[Package]) -> None:
        """Bring the resolved packages here; apt verifies them. What an earlier run fetched is used.

        Raises:
            BundleError: the mirror does not give them, or the disk is full; what came is kept.
        """
        for package in packages:
            # Of a file that is there already apt looks at the size alone.
            if package.path.exists() and sha256(package.path) != package.sha256:
                package.path.unlink()
        self._run("fetch the packages", "apt-get", "-q", "-y", "--download-only", "install", *sorted(names))

    def keep_only(self, packages: Iterable[Package]) -> None:
        """Forget every other file that was fetched."""
        kept = {package.path for package in packages}
        for path in (self._root / "archives").glob("*.deb"):
            if path not in kept:
                path.unlink()

    def _run(self, what: str, *command: str) -> str:
        environment = os.environ | {"APT_CONFIG": str(self._root / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
        if done.returncode != 0:
            raise self._error(what, done.stderr)
        return done.stdout

    def _error(self, what: str, said: str) -> BundleError:
        lines = [line for line in said.splitlines() if line.startswith(("E:", "W:"))] or said.splitlines()
        why = " / ".join(line.strip() for line in lines[:4])
        otherwise = "check package_sources in the inventory and the network here, then run it again"
        fix = next((fix for sign, fix in _FIXES.items() if sign in said), otherwise)
        return BundleError(f"apt could not {what} for {self._target}", why=why, fix=fix)


_FIXES = {
    "No space left": "free some space, then run it again: what was fetched is kept",
    "enough free space": "free some space, then run it again: what was fetched is kept",
    "Could not get lock": "another run gathers packages here; wait for its end",
    "does not have a Release file": "correct the address in package_sources, or the archive is not signed",
    "is not signed": "name the source's key in package_sources: deb [signed-by=KEYRING] …",
    "NO_PUBKEY": "name the source's key in package_sources: deb [signed-by=KEYRING] …",
    "Unable to locate package": "correct the name in the playbook, or add the source that has it to package_sources",
    "no installation candidate": "correct the name in the playbook, or add the source that has it to package_sources",
}
"""What to do about a complaint of apt's."""


def _signed(line: str, target: Target) -> str:
    """The source with a key to check it by: the one it names, or the distribution's."""
    match = _SOURCE.match(line)
    assert match is not None  # the inventory's schema
    options = match["options"] or ""
    named = re.search(r"signed-by=(\S+)", options)
    keyring = KEYRINGS[target.os]
    path = named[1] if named else keyring.path
    if not Path(path).is_file():
        raise BundleError(
            f"there is no key to check the packages of {target.os} by",
            why=f"{path} is missing here",
            fix="correct signed-by in package_sources"
            if named
            else f"install {keyring.package}, or name the key's file: deb [signed-by=FILE] …",
        )
    return line if named else f"deb [{options} signed-by={path}] {match['rest']}".replace("[ ", "[")


def _own_sources(target: Target) -> list[str]:
    """This machine's own sources of the target's release, without other vendors'."""
    # Without their Release files the sources count as they are written, also where nothing was ever fetched.
    words = ("indextargets", "--no-release-info", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
    listed = subprocess.run(
        ["apt-get", *words, "Created-By: Packages"],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )
    suites = {target.codename, f"{target.codename}-updates", f"{target.codename}-security"}
    found = []
    for line in listed.stdout.splitlines():
        uri, suite, component = [*line.split(" "), "", ""][:3]
        if suite in suites and component in COMPONENTS:
            found.append(f"deb {uri} {suite} {component}")
    if not found:
        raise BundleError(
            f"it is not known where the packages of {target.os} {target.codename} come from",
            why="this machine has no apt source of that release",
            fix="name the archive, its updates and its security updates in the inventory: package_sources",
        )
    return list(dict.fromkeys(found))


def _system_configuration() -> list[str]:
    shown = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, errors="replace", check=False)
    return shown.stdout.splitlines()
