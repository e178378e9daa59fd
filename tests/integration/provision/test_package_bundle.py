"""Gathering packages: complete, checked, no more often than needed, and nothing half done."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaicl.errors import BundleError
from qaicl.provision import apt, package_bundle
from qaicl.provision.apt import Target
from qaicl.provision.bundle import sha256

sys.path.insert(0, str(Path(__file__).parent))

from archive import ARCHITECTURE, MISSING, Archive, Signer

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")

TARGET = Target(os="debian", codename="test", machine=platform.machine())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """``tool`` needs ``library``, would like ``manual``, and ``other`` stands for itself."""
    signer = Signer("archive")
    made = Archive(tmp_path_factory.mktemp("published") / "archive", signer)
    made.add("tool", "1:2.0", depends="library (>= 1)", recommends="manual")
    made.add("library", "1.1", source="lib")
    made.add("library-extra", "1.1", source="lib", depends="library (= 1.1)")
    made.add("manual", "2.0")
    made.add("other", "3.0")
    made.publish()
    yield made
    made.stop()
    signer.forget()


class Gatherer:
    """Gathers from the archive, and remembers what it was told."""

    def __init__(self, directory: Path, archive: Archive) -> None:
        self.directory = directory
        self.archive = archive
        self.said: list[str] = []

    def __call__(
        self, *names: str, installed: dict[str, str] | None = None, target: Target = TARGET, refresh: bool = False
    ) -> package_bundle.PackageBundle:
        return package_bundle.ensure(
            self.directory,
            target=target,
            names=names,
            installed=installed or {},
            sources=[self.archive.source],
            say=self.said.append,
            refresh=refresh,
        )

    def fails(self, *names: str, refresh: bool = False) -> BundleError:
        """The error; what was gathered before is whole afterwards, and nothing else lies there."""
        before = self.state()
        with pytest.raises(BundleError) as caught:
            self(*names, refresh=refresh)
        assert self.state() == before
        assert caught.value.why
        assert caught.value.fix
        return caught.value

    def state(self) -> dict[str, str]:
        paths = self.directory.rglob("*")
        kept = (path for path in paths if path.is_file() and path.name != ".lock" and "apt" not in path.parts)
        return {str(path): sha256(path) for path in kept}


@pytest.fixture
def gather(tmp_path: Path, archive: Archive) -> Gatherer:
    return Gatherer(tmp_path / "bundle", archive)


def _packages(bundle: package_bundle.PackageBundle) -> set[str]:
    return {file.name.split("_")[0] for file in bundle.files if file.name.endswith(".deb")}


def test_packages_come_with_what_they_need_and_not_with_what_they_recommend(gather: Gatherer) -> None:
    bundle = gather("tool")
    assert _packages(bundle) == {"tool", "library"}
    assert bundle.manifest.names == ["tool"]
    for file in bundle.files:
        assert (Path(file.source).stat().st_size, sha256(Path(file.source))) == (file.size, file.sha256)
    # It names the sources, and one may hold a password.
    assert (bundle.directory / "manifest.json").stat().st_mode & 0o077 == 0
    index = (bundle.directory / "Packages").read_text()
    assert f"Filename: ./tool_2.0_{ARCHITECTURE}.deb" in index
    assert all(file.sha256 in index for file in bundle.files if file.name.endswith(".deb"))
    assert gather.said == [f"fetching 2 packages for debian test on {platform.machine()} (0 MB) …"]


def test_nobody_is_asked_again_until_something_else_is_meant(gather: Gatherer) -> None:
    gather("tool", "other")
    asked = len(gather.archive.asked)
    assert gather("other").manifest.names == ["other", "tool"]
    assert len(gather.archive.asked) == asked
    assert _packages(gather("tool", "manual")) == {"tool", "library", "manual"}
    assert _packages(gather("tool", target=Target(os="debian", codename="next", machine=platform.machine()))) == {
        "tool",
        "library",
    }
    assert len(gather.archive.fetched()) == len(set(gather.archive.fetched()))  # each came once


def test_a_package_that_is_lost_is_fetched_again(gather: Gatherer) -> None:
    bundle = gather("tool")
    (bundle.directory / f"tool_2.0_{ARCHITECTURE}.deb").unlink()
    assert _packages(gather("tool")) == {"tool", "library"}
    package_bundle.verify(gather("tool").files)


def test_what_a_killed_run_left_half_placed_goes(gather: Gatherer) -> None:
    first = gather("tool")
    half = gather.directory / ".new-killed" / "old"
    half.parent.mkdir()
    first.directory.rename(half)
    assert gather("tool") == first
    assert not half.parent.exists()


def test_newer_packages_come_on_demand(gather: Gatherer) -> None:
    gather("tool")
    gather.archive.add("library", "1.2", source="lib")
    gather.archive.publish()
    names = [file.name for file in gather("tool").files]
    assert f"library_1.1_{ARCHITECTURE}.deb" in names
    names = [file.name for file in gather("tool", refresh=True).files]
    assert f"library_1.2_{ARCHITECTURE}.deb" in names
    assert f"library_1.1_{ARCHITECTURE}.deb" not in names
    assert not list(gather.directory.glob("apt/archives/library_1.1*"))


def test_what_a_machine_has_of_the_same_source_comes_along(gather: Gatherer) -> None:
    bundle = gather("tool", installed={"library-extra": "lib", "library-gone": "lib", "other": "other"})
    assert _packages(bundle) == {"tool", "library", "library-extra"}
    asked = len(gather.archive.asked)
    gather("tool", installed={"library-gone": "lib"})
    gather("tool")
    assert len(gather.archive.asked) == asked


def test_nothing_to_install_is_no_error(gather: Gatherer) -> None:
    assert [file.name for file in gather().files] == ["Packages"]


def test_an_archive_with_another_key_is_refused(gather: Gatherer, tmp_path: Path) -> None:
    gather("other")
    stranger = Signer("stranger")
    own, gather.archive.signer = gather.archive.signer, stranger
    try:
        gather.archive.publish()
        gather.archive.signer = own
        error = gather.fails("other", "tool")
    finally:
        stranger.forget()
    assert "read the package sources" in error.what
    assert "not signed" in error.why or "NO_PUBKEY" in error.why
    assert "signed-by" in error.fix


def test_an_archive_without_a_signature_is_refused(gather: Gatherer) -> None:
    (gather.archive.directory / "InRelease").unlink()
    error = gather.fails("tool")
    assert "Release file" in error.why
    assert "not signed" in error.fix


def test_a_mirror_that_is_gone_is_named(gather: Gatherer) -> None:
    gather("other")
    gather.archive.broken.add("InRelease")
    error = gather.fails("tool")
    assert "503" in error.why
    assert "package_sources" in error.fix


def test_what_was_fetched_before_the_mirror_broke_is_kept(gather: Gatherer) -> None:
    gather.archive.broken.add(f"tool_2.0_{ARCHITECTURE}.deb")
    error = gather.fails("tool")
    assert "fetch the packages" in error.what
    gather.archive.broken.clear()
    assert _packages(gather("tool")) == {"tool", "library"}
    assert gather.archive.fetched().count(f"library_1.1_{ARCHITECTURE}.deb") == 1


def test_a_package_that_is_not_what_was_signed_never_gets_in(gather: Gatherer) -> None:
    path = gather.archive.directory / f"library_1.1_{ARCHITECTURE}.deb"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert "Hash Sum mismatch" in gather.fails("tool").why


def test_a_package_that_was_damaged_here_is_found_and_fetched_again(gather: Gatherer) -> None:
    bundle = gather("tool")
    victim = bundle.directory / f"tool_2.0_{ARCHITECTURE}.deb"
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match=r"tool_2\.0.* is damaged") as caught:
        package_bundle.verify(bundle.files)
    assert "--refresh" in caught.value.fix
    package_bundle.verify(gather("tool", refresh=True).files)


def test_a_package_that_nobody_has_is_named(gather: Gatherer) -> None:
    error = gather.fails("tool", "toool")
    assert "toool" in error.why
    assert "playbook" in error.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_named_and_a_later_run_completes(gather: Gatherer) -> None:
    gather.archive.add("large", "1.0", size=1_500_000)
    gather.archive.publish()
    gather.directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(gather.directory)], check=True)
    try:
        gather("other")
        rest = shutil.disk_usage(gather.directory).free
        (gather.directory / "filler").write_bytes(bytes(rest - 500_000))
        error = gather.fails("large")
        assert "space" in error.why
        assert "free some space" in error.fix
        (gather.directory / "filler").unlink()
        assert _packages(gather("large")) == {"large"}
    finally:
        subprocess.run(["umount", str(gather.directory)], check=True)


def test_without_apt_it_says_where_to_do_it(gather: Gatherer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    error = gather.fails("tool")
    assert "apt-get" in error.why
    assert "packages: mirror" in error.fix


def test_without_the_distributions_key_it_names_the_package_that_brings_it(
    gather: Gatherer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(apt.KEYRINGS, "debian", apt.Keyring("/nonexistent/key.gpg", "debian-archive-keyring"))
    with pytest.raises(BundleError) as caught:
        apt.PrivateApt(gather.directory, TARGET, ["deb http://127.0.0.1:9/ ./"])
    assert "/nonexistent/key.gpg" in caught.value.why
    assert "install debian-archive-keyring" in caught.value.fix
    with pytest.raises(BundleError, match="no key") as caught:
        apt.PrivateApt(gather.directory, TARGET, ["deb [signed-by=/nonexistent] http://127.0.0.1:9/ ./"])
    assert "signed-by" in caught.value.fix


def test_without_a_source_in_the_inventory_this_machines_own_of_that_release_count(
    gather: Gatherer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = gather.archive.signer.keyring
    monkeypatch.setitem(apt.KEYRINGS, "debian", apt.Keyring(str(key), ""))
    (tmp_path / "sources.list").write_text(
        "deb http://m.example/debian test main\ndeb http://m.example/debian-security test-security main\n"
        "deb http://m.example/debian other main\ndeb http://vendor.example/debian test stable\n"
    )
    (tmp_path / "apt.conf").write_text(
        f'Dir "{tmp_path}";\nDir::Etc "{tmp_path}";\nDir::Etc::parts "-";\nDir::Etc::sourceparts "-";\n'
        'Acquire::http::Proxy "http://proxy.example:3128";\nAPT::Update::Post-Invoke { "touch /hook"; };\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    apt.PrivateApt(tmp_path / "own", TARGET, [])
    assert (tmp_path / "own" / "sources.list").read_text().splitlines() == [
        f"deb [signed-by={key}] http://m.example/debian/ test main",
        f"deb [signed-by={key}] http://m.example/debian-security/ test-security main",
    ]
    settings = (tmp_path / "own" / "apt.conf").read_text()
    assert "proxy.example" in settings  # the way to a mirror, and nothing else
    assert "/hook" not in settings
    with pytest.raises(BundleError) as caught:
        apt.PrivateApt(tmp_path / "own", Target(os="debian", codename="buzz", machine="x86_64"), [])
    assert "debian buzz" in caught.value.what
    assert "package_sources" in caught.value.fix


def test_a_source_is_checked_by_the_distributions_key_unless_it_names_one(
    gather: Gatherer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = gather.archive.signer.keyring
    monkeypatch.setitem(apt.KEYRINGS, "debian", apt.Keyring(str(key), ""))
    lines = ["deb http://m.example/debian test main", "deb [arch=amd64] http://m.example/debian test main"]
    apt.PrivateApt(tmp_path / "own", TARGET, lines)
    written = tmp_path / "own" / "sources.list"
    assert written.read_text().splitlines() == [
        f"deb [signed-by={key}] http://m.example/debian test main",
        f"deb [arch=amd64 signed-by={key}] http://m.example/debian test main",
    ]
    assert written.stat().st_mode & 0o077 == 0
