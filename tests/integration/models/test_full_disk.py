"""Pulls to a disk that is too small: a tmpfs of a few megabytes, mounted for the test."""

import os
import subprocess

import pytest

from qaicl.errors import NoSpaceError
from qaicl.models.progress import Phase


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a tmpfs of that many bytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = []

    def mount(size):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
        mounted.append(directory)
        return directory

    yield mount
    for where in mounted:
        subprocess.run(["umount", str(where)], check=True)


def test_too_little_room_is_said_before_the_first_byte(hub, installation, small_disk):
    home = installation(directory=small_disk(1_000_000))
    with pytest.raises(NoSpaceError) as caught:
        home.pull()
    assert "3.3 MB needed" in caught.value.why
    assert "free" in caught.value.why
    assert hub.sent("model.safetensors") == 0
    home.assert_nothing_landed()


def test_a_disk_that_fills_up_meanwhile(hub, installation, small_disk):
    disk = small_disk(6_000_000)
    home = installation(directory=disk / "models")
    filler = disk / "filler"

    def somebody_else_writes(step):
        if step.phase is Phase.downloading and step.file == "model.safetensors" and not filler.exists():
            room = os.statvfs(disk)
            filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 1_000_000))

    with pytest.raises(NoSpaceError, match="is full") as caught:
        home.pull(somebody_else_writes)
    assert "resumes" in caught.value.fix
    home.assert_nothing_landed()
    filler.unlink()
    home.pull()
    assert home.store.verify("tiny")
    last = [seen for seen in hub.seen if seen.host == "cdn"][-1]
    assert last.headers["range"].startswith("bytes=")


def test_a_disk_that_the_converted_model_does_not_fit_on(hub, installation, small_disk):
    home = installation(directory=small_disk(6_000_000), installed=5_000_000)
    with pytest.raises(NoSpaceError, match="not enough room"):
        home.pull()
    assert hub.sent("model.safetensors") == 0
