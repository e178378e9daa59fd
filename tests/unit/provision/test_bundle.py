"""The bundle: what is in it, when it is made anew, and what a kill or a damaged file leaves of it."""

from __future__ import annotations

import importlib.metadata
import platform
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from filelock import FileLock

from qaicl.errors import BundleError
from qaicl.models import manifest as model_manifest
from qaicl.provision import bundle

PINS = {"one": "==1.0", "two": "==2.0"}


def _wheel(directory: Path, name: str, version: str, content: str = "") -> Path:
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", content)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


class Gathering:
    """A bundle of two small wheels from a directory that stands for the index."""

    def __init__(self, home: Path) -> None:
        self.index = home / "index"
        self.index.mkdir()
        for name, version in PINS.items():
            _wheel(self.index, name, version.removeprefix("=="))
        self.wheel = _wheel(home, "qaicl", "0.1.0", "first")
        self.directory = home / "bundle"
        self.said: list[str] = []
        self.heard: Callable[[str], None] = self.said.append

    def fetch(self, pins: Mapping[str, str], target: Path, python: str, machine: str, kept: Path) -> None:
        """In the place of pip, which takes a second each time; it too prefers what lies beside it."""
        for name, wanted in pins.items():
            file = f"{name}-{wanted.removeprefix('==')}-py3-none-any.whl"
            found = next((place / file for place in (kept, self.index) if (place / file).exists()), None)
            if found is None:
                raise BundleError("pip could not fetch the wheels", why=f"no {name}{wanted}")
            (target / file).write_bytes(found.read_bytes())

    @property
    def wheels(self) -> Path:
        return self.directory / "wheels"

    def __call__(self) -> bundle.Bundle:
        self.said.clear()
        return bundle.ensure(
            self.directory, python="3.11", machine=platform.machine(), say=self.heard, wheel=self.wheel
        )


@pytest.fixture
def through_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gathering:
    made = Gathering(tmp_path)
    monkeypatch.setattr(bundle, "closure", lambda python, machine: dict(PINS))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.index))
    return made


@pytest.fixture
def gather(through_pip: Gathering, monkeypatch: pytest.MonkeyPatch) -> Gathering:
    monkeypatch.setattr(bundle, "_download", through_pip.fetch)
    return through_pip


# --- what must not happen --------------------------------------------------------------------------------


def test_what_cannot_be_fetched_is_an_error_and_leaves_nothing(through_pip: Gathering) -> None:
    (through_pip.index / "two-2.0-py3-none-any.whl").unlink()
    with pytest.raises(BundleError, match="pip could not fetch the wheels") as caught:
        through_pip()
    assert "two==2.0" in caught.value.why
    assert [path.name for path in through_pip.directory.iterdir()] == [".lock"]


def test_a_place_that_cannot_be_written_is_an_error(gather: Gathering) -> None:
    gather.directory.write_text("in the way")
    with pytest.raises(BundleError, match="cannot be gathered") as caught:
        gather()
    assert "exists" in caught.value.why


def test_a_failed_gathering_keeps_the_bundle_that_was_there(gather: Gathering, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gather()
    monkeypatch.setattr(bundle, "closure", lambda python, machine: {**PINS, "three": "==3"})
    with pytest.raises(BundleError):
        gather()
    monkeypatch.setattr(bundle, "closure", lambda python, machine: dict(PINS))
    after = gather()
    assert (after, gather.said) == (before, [])
    bundle.verify(after, "tiny", [])


def test_a_damaged_wheel_is_never_taken_for_a_good_one(gather: Gathering) -> None:
    first = gather()
    wheel = gather.wheels / "one-1.0-py3-none-any.whl"
    good = wheel.read_bytes()
    damaged = good[:-1] + b"x"
    wheel.unlink()  # pip's copy may share its bytes with the index
    wheel.write_bytes(damaged)
    with pytest.raises(BundleError, match=r"one-1\.0-py3-none-any\.whl in the bundle is damaged") as caught:
        bundle.verify(first, "tiny", [])
    assert str(wheel) in caught.value.fix
    _wheel(gather.wheel.parent, "qaicl", "0.1.0", "second")  # qaicl alone is another: the others are kept, if whole
    second = gather()
    assert wheel.read_bytes() == good
    bundle.verify(second, "tiny", [])

    wheel.unlink()
    wheel.write_bytes(good[:100])  # a full disk, a long time ago
    third = gather()
    assert wheel.read_bytes() == good
    assert third == second


def test_a_damaged_model_is_named_with_what_to_run(gather: Gathering, tmp_path: Path) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    recorded = model_manifest.record(model)
    made = model_manifest.Manifest(model_manifest.LAYOUT, "tiny", "file:", "llama", "", "", recorded, {}, "")
    model_manifest.write(model, made)
    files = bundle.model_files(tmp_path / "models", "tiny")
    assert [file.name for file in files] == ["config.json", "manifest.json"]
    gathered = gather()
    bundle.verify(gathered, "tiny", files)
    (model / "config.json").write_text("[]")
    with pytest.raises(BundleError, match=r"config\.json") as caught:
        bundle.verify(gathered, "tiny", files)
    assert "qaicl model pull tiny" in caught.value.fix
    (model / "config.json").unlink()
    with pytest.raises(BundleError, match="the model tiny is not ready here"):
        bundle.model_files(tmp_path / "models", "tiny")


# --- what must happen ------------------------------------------------------------------------------------


def test_it_is_made_once_and_pins_every_wheel_with_its_digest(through_pip: Gathering) -> None:
    made = through_pip()
    assert through_pip.said == [f"fetching 2 wheels for Python 3.11 on {platform.machine()} …"]
    shared = (through_pip.wheels / "dependencies.txt").read_text().splitlines()
    own = (through_pip.wheels / "release.txt").read_text().splitlines()
    assert [line.split(" --hash=sha256:")[0] for line in shared + own] == ["one==1.0", "two==2.0", "qaicl==0.1.0"]
    digests = {file.sha256 for file in made.manifest.wheels if file.name.endswith(".whl")}
    assert {line.rpartition(":")[2] for line in shared + own} == digests
    assert {bundle.sha256(path) for path in through_pip.wheels.glob("*.whl")} == digests
    assert made.manifest.release == f"0.1.0-{made.manifest.digest[:8]}"
    before = (through_pip.directory / "manifest.json").stat()
    again = through_pip()
    assert (again, through_pip.said) == (made, [])
    assert (through_pip.directory / "manifest.json").stat() == before


def test_another_qaicl_is_another_release_and_fetches_nothing(gather: Gathering) -> None:
    first = gather()
    _wheel(gather.wheel.parent, "qaicl", "0.1.0", "second")
    for path in gather.index.iterdir():
        path.unlink()  # nothing could be fetched now
    second = gather()
    assert gather.said == []
    assert second.manifest.release != first.manifest.release
    assert second.manifest.dependencies == first.manifest.dependencies
    assert {file.name for file in second.wheels} == {file.name for file in first.wheels}


@pytest.mark.parametrize("state", ["manifest gone", "wheels gone", "manifest cut short", "half made beside it"])
def test_what_a_kill_leaves_is_made_whole(gather: Gathering, state: str) -> None:
    made = gather()
    manifest = gather.directory / "manifest.json"
    if state == "manifest gone":
        manifest.unlink()
    elif state == "wheels gone":
        gather.wheels.rename(gather.directory / ".new-killed")
    elif state == "manifest cut short":
        manifest.write_bytes(manifest.read_bytes()[:50])
    else:
        (gather.directory / ".new-killed").mkdir()
        (gather.directory / ".new-killed" / "big").write_text("x")
        _wheel(gather.wheel.parent, "qaicl", "0.1.0", "second")
        made = gather()
    assert gather() == made
    bundle.verify(made, "tiny", [])
    assert sorted(path.name for path in gather.directory.iterdir()) == [".lock", "manifest.json", "wheels"]


def test_two_runs_at_once_gather_one_after_the_other(gather: Gathering) -> None:
    gather.directory.mkdir()
    lock = FileLock(gather.directory / ".lock")
    lock.acquire()
    waiting = threading.Event()
    gather.heard = lambda text: waiting.set() if "waiting" in text else None
    made: list[bundle.Bundle] = []
    thread = threading.Thread(target=lambda: made.append(gather()))
    thread.start()
    assert waiting.wait(20)
    assert not (gather.directory / "manifest.json").exists()
    lock.release()
    thread.join()
    bundle.verify(made[0], "tiny", [])


# --- what the machines need --------------------------------------------------------------------------------


def test_the_closure_pins_what_the_operator_runs() -> None:
    pins = bundle.closure("3.11", "x86_64", ("httpx",))
    assert pins["httpx"] == f"=={importlib.metadata.version('httpx')}"
    assert {"httpcore", "h11", "idna", "certifi", "anyio"} <= set(pins)
    assert "pytest" not in pins


def test_markers_are_judged_for_the_machines_not_for_this_one() -> None:
    needs = "colourless; python_version < '3.12'"
    assert bundle.closure("3.13", "x86_64", ()) == {}
    with_old = bundle.closure("3.11", "x86_64", (needs,))
    assert with_old == {"colourless": ""}  # not installed here: any version that fits


def test_what_is_not_installed_here_cannot_be_brought_there() -> None:
    with pytest.raises(BundleError, match="nothing-of-the-kind is not installed here"):
        bundle.closure("3.11", "x86_64", ("nothing-of-the-kind",))


def test_the_operators_side_stays_away_from_the_machines() -> None:
    pins = bundle.closure("3.11", "x86_64")
    assert {"torch", "msgspec", "pyzmq", "redis", "tokenizers"} <= set(pins)
    assert not {"paramiko", "fabric", "ccxt", "textual", "matplotlib", "pandas", "jsonschema"} & set(pins)
