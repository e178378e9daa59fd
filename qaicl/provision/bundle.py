"""The bundle: everything that the machines install, gathered on the operator's machine.

Wheels come through pip at exactly the versions that the operator runs, so the cluster runs what was tested; models
come from the model store. A manifest names the sha256 of each file. The machines need no way to the internet for it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import qaicl
from qaicl.errors import BundleError, ModelError
from qaicl.provision.gathering import UNFINISHED, alone
from qaicl.provision.operations.base import BundleFile

VERSION = 2
DEPENDENCIES = "dependencies.txt"
RELEASE = "release.txt"
"""The requirement files beside the wheels: what releases may share, and qaicl itself."""

HOST_REQUIREMENTS = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "jinja2",
    "msgspec",
    "pyzmq",
    "redis",
    "hiredis",
    "psutil",
    "httpx",
    "filelock",
    "platformdirs",
    "rich",
    "typer",
)
"""What the daemons import; the operator's side (SSH, charts, the monitor) stays away from the machines."""

GLIBC = ("2_17", "2_28", "2_31", "2_34", "2_35", "2_36")
"""manylinux tags that the oldest supported distribution (Debian 12, glibc 2.36) can load."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a bundle; paths are relative to its directory."""

    version: int = VERSION
    release: str
    """Name of the release: qaicl's version and eight hex digits of everything in the environment."""
    digest: str
    dependencies: str
    """Digest of everything in the environment but qaicl itself."""
    inputs: str
    """Digest of what the bundle was made from; another one means to make it anew."""
    python: str
    machine: str
    pins: dict[str, str]
    wheels: list[BundleFile]


@dataclass(frozen=True)
class Bundle:
    """A complete bundle on the operator's machine."""

    directory: Path
    manifest: Manifest

    @property
    def wheels(self) -> list[BundleFile]:
        """The wheels and the requirement files, with their paths here."""
        return [
            msgspec.structs.replace(file, source=str(self.directory / "wheels" / file.name))
            for file in self.manifest.wheels
        ]


def sha256(path: Path) -> str:
    """A file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def closure(python: str, machine: str, roots: tuple[str, ...] = HOST_REQUIREMENTS) -> Mapping[str, str]:
    """Every distribution that the daemons need, with the version installed here as ``==VERSION``.

    Args:
        python: the machines' Python, ``3.11``.
        machine: their architecture as ``uname -m`` says it.

    Raises:
        BundleError: something is not installed here.
    """
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    waiting = [Requirement(name) for name in roots]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        name = canonicalize_name(wanted.name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            if wanted.marker is None:
                raise BundleError(
                    f"{name} is not installed here",
                    why="the machines get what the operator runs",
                    fix="run: make setup",
                ) from error
            # Only the machines' older Python needs it, so there is no version here to go by.
            found[name] = str(wanted.specifier)
            continue
        metadata = distribution.metadata  # parsed anew each time it is asked for
        found[name] = f"=={metadata['Version']}"
        for text in metadata.get_all("Requires-Dist") or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({**environment, "extra": e}) for e in ("", *wanted.extras)):
                waiting.append(needed)
    return MappingProxyType(dict(sorted(found.items())))


def source_tree() -> Path | None:
    """The checkout that this qaicl runs from, if it does."""
    root = Path(qaicl.__file__).parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "playbooks").is_dir() else None


def _tree_digest(root: Path) -> str:
    total = hashlib.sha256()
    for folder in ("qaicl", "playbooks"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    total.update((root / "pyproject.toml").read_bytes())
    return total.hexdigest()


def ensure(
    directory: Path, *, python: str, machine: str, say: Callable[[str], None], wheel: Path | None = None
) -> Bundle:
    """The bundle, made anew only where something in it would be another.

    Args:
        wheel: qaicl itself as a wheel; None builds it from the checkout, or fetches the installed version.

    Raises:
        BundleError: pip could not fetch or build something, or it cannot be written. What was there before stays.
    """
    with alone(directory, "wheels", say):
        return _ensure(directory, python, machine, say, wheel)


def _ensure(directory: Path, python: str, machine: str, say: Callable[[str], None], wheel: Path | None) -> Bundle:
    pins = dict(closure(python, machine))
    tree = source_tree()
    own = sha256(wheel) if wheel else _tree_digest(tree) if tree else qaicl.__version__
    inputs = hashlib.sha256(msgspec.json.encode([VERSION, python, machine, pins, own])).hexdigest()
    manifest = _read(directory)
    if manifest is not None and manifest.inputs == inputs and _complete(directory, manifest):
        return Bundle(directory, manifest)
    wheels = directory / "wheels"
    with tempfile.TemporaryDirectory(dir=directory, prefix=UNFINISHED) as temporary:
        fresh, kept = Path(temporary) / "new", Path(temporary) / "kept"
        fresh.mkdir()
        kept.mkdir()
        whole = manifest is not None and _keep(Bundle(directory, manifest), kept)
        same = manifest is not None and (manifest.pins, manifest.python, manifest.machine) == (pins, python, machine)
        if whole and same:
            # The others stay as they are when only qaicl itself is another.
            for path in kept.iterdir():
                path.rename(fresh / path.name)
        else:
            say(f"fetching {len(pins)} wheels for Python {python} on {machine} …")
            _download(pins, fresh, python, machine, kept)
        if wheel:
            shutil.copy2(wheel, fresh)
        else:
            _own_wheel(tree, fresh)
        files = [BundleFile(path.name, path.stat().st_size, sha256(path)) for path in sorted(fresh.glob("*.whl"))]
        listed = {DEPENDENCIES: "", RELEASE: ""}
        for file in files:
            name, version = file.name.split("-")[:2]
            line = f"{name.replace('_', '-')}=={version} --hash=sha256:{file.sha256}\n"
            listed[RELEASE if name == "qaicl" else DEPENDENCIES] += line
        for name, text in listed.items():
            (fresh / name).write_text(text, encoding="utf-8")
            files.append(BundleFile(name, len(text.encode()), sha256(fresh / name)))
        digest = hashlib.sha256("".join(listed.values()).encode()).hexdigest()
        manifest = Manifest(
            release=f"{qaicl.__version__}-{digest[:8]}",
            digest=digest,
            dependencies=hashlib.sha256(listed[DEPENDENCIES].encode()).hexdigest(),
            inputs=inputs,
            python=python,
            machine=machine,
            pins=pins,
            wheels=files,
        )
        (directory / "manifest.json").unlink(missing_ok=True)
        if wheels.exists():
            wheels.rename(Path(temporary) / "old")
        fresh.rename(wheels)
    part = directory / ".manifest.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    part.replace(directory / "manifest.json")
    return Bundle(directory, manifest)


def _read(directory: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((directory / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None  # none yet, or half written by an older version: it is made anew


def _complete(directory: Path, manifest: Manifest) -> bool:
    for file in manifest.wheels:
        path = directory / "wheels" / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return False
    return True


def _keep(bundle: Bundle, target: Path) -> bool:
    """Link what others made of the bundle's wheels into a directory; whether all of them are still whole."""
    whole = True
    for file in bundle.wheels:
        if file.name.endswith(".whl") and not file.name.startswith("qaicl-"):
            if is_whole(file):
                (target / file.name).hardlink_to(file.source)
            else:
                whole = False
    return whole


def is_whole(file: BundleFile) -> bool:
    """Whether a file here still has the size and the sha256 that are recorded."""
    path = Path(file.source)
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256


def verify(bundle: Bundle, model: str, files: Iterable[BundleFile]) -> None:
    """Read every wheel and every file of the model again.

    Raises:
        BundleError: one has another sha256 than the manifest says.
    """
    for entries, fix in (
        (bundle.wheels, "remove {} and run: qaicl provision bundle"),
        (files, f"run: qaicl model pull {model}"),
    ):
        for file in entries:
            if not is_whole(file):
                raise BundleError(
                    f"{file.name} in the bundle is damaged",
                    why="its sha256 is not the manifest's",
                    fix=fix.format(file.source),
                )


def _pip(arguments: list[str], what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"PIP_CONSTRAINT": "", "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        full = any("No space left" in line for line in lines)
        raise BundleError(
            f"pip could not {what}",
            why="the disk is full" if full else " / ".join(lines[-3:]),
            fix="free some space" if full else "check the network and pip's configuration, then run it again",
        )


def _download(pins: Mapping[str, str], target: Path, python: str, machine: str, kept: Path) -> None:
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--dest", str(target), "--find-links", str(kept)]
    if (python, machine) != (f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine()):
        tag = "cp" + python.replace(".", "")
        arguments += ["--python-version", python, "--implementation", "cp", "--abi", tag, "--abi", "abi3"]
        arguments += ["--abi", "none", *(f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC)]
        arguments += [f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"]
    _pip([*arguments, *(f"{name}{version}" for name, version in pins.items())], "fetch the wheels")


def _own_wheel(tree: Path | None, target: Path) -> None:
    if tree:
        _pip(["wheel", "--no-deps", "--wheel-dir", str(target), str(tree)], f"build qaicl from {tree}")
    else:
        _pip(["download", "--no-deps", "--dest", str(target), f"qaicl=={qaicl.__version__}"], "fetch qaicl")


def model_files(models: Path, name: str) -> list[BundleFile]:
    """The files of a model of the store, with the sha256 that its manifest records.

    Raises:
        BundleError: the model is not here, or not whole.
    """
    from qaicl.models.store import Store

    store = Store(models)
    try:
        directory = store.open(name)
        recorded = store.manifest(name).files
    except ModelError as error:
        raise BundleError(
            f"the model {name} is not ready here", why=str(error), fix=f"run: qaicl model pull {name}"
        ) from error
    files = [
        BundleFile(file, entry.size, entry.sha256, str(directory / file)) for file, entry in sorted(recorded.items())
    ]
    own = directory / "manifest.json"
    files.append(BundleFile(own.name, own.stat().st_size, sha256(own), str(own)))
    return files
