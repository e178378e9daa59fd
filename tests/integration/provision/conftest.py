"""Pretended machines, and an operator who has gathered what they install."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from qaicl.models import manifest
from qaicl.provision import apt, bundle
from qaicl.provision.secrets import SecretStore

sys.path.insert(0, str(Path(__file__).parent))

from archive import Archive
from pretend import CAN_PRETEND, Keys, Machine, Operator, Prepared, Run, write_wheel


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    home = tmp_path_factory.mktemp("keys")
    made = Keys(home / "client", home / "host", home / "other")
    for path in (made.client, made.host, made.other):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return made


@pytest.fixture
def machines(keys: Keys) -> Iterator[Callable[[str], Machine]]:
    """Starts machines by name; each listens on a loopback address of its own."""
    if not CAN_PRETEND:
        pytest.skip("needs sshd (openssh-server), unshare and root")
    started: list[Machine] = []
    # Not in pytest's directory, which root alone may enter: a machine has users who are not root.
    with tempfile.TemporaryDirectory(prefix="qaicl-machines-") as directory:
        Path(directory).chmod(0o755)

        def start(name: str) -> Machine:
            # Another test run beside this one has other addresses, and so the same ports are free.
            address = f"127.{1 + os.getpid() // 256 % 250}.{os.getpid() % 256}.{11 + len(started)}"
            with socket.socket() as free:
                free.bind((address, 0))
                port = free.getsockname()[1]
            machine = Machine(name, address, port, Path(directory) / name, keys)
            machine.prepare()
            machine.start()
            started.append(machine)
            return machine

        yield start
        for machine in started:
            machine.end()


@pytest.fixture
def machine(machines: Callable[[str], Machine]) -> Machine:
    """One machine."""
    return machines("a")


@pytest.fixture
def carry_out(tmp_path: Path, machine: Machine) -> Iterator[Run]:
    """Carries steps out on one machine."""
    secrets = SecretStore({"password": "env:P"}, tmp_path / "secrets", environ={"P": "hunter22"})
    secrets.get("password")
    run = Run(tmp_path / "journals", [machine], secrets)
    yield run
    run.session.close()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    home = tmp_path_factory.mktemp("prepared")
    python = subprocess.run(
        ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()

    def fetch(pins: Mapping[str, str], target: Path, *rest: object) -> None:
        for name, wanted in pins.items():
            # A floor such as >=4.0.3 where this Python needs nothing of the kind.
            write_wheel(target, name, wanted.removeprefix("==") if wanted.startswith("==") else "99")

    wheel = write_wheel(home, "qaicl", "0.1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "_download", fetch)
        bundle.ensure(
            home / "bundles" / "demo", python=python, machine=platform.machine(), say=lambda text: None, wheel=wheel
        )
    model = home / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    files = manifest.record(model)
    manifest.write(model, manifest.Manifest(manifest.LAYOUT, "tiny", "file:", "llama", "", "", files, {}, ""))
    return Prepared(wheel, home / "bundles", home / "models", python)


@pytest.fixture
def operator(
    tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Operator:
    home = tmp_path / "operator"
    monkeypatch.setenv("QAICL_HOME", str(home))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("QAICL_CONTEXT", raising=False)
    return Operator(home, prepared, capsys)


@pytest.fixture
def archive(tmp_path: Path, published: Archive, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """A copy of the module's ``published`` archive that a test may change."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(apt, "RETRIES", 0)
    made = published.copy(tmp_path / "archive")
    yield made
    made.stop()
