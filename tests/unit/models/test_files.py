import hashlib
import subprocess

import pytest

from qaicl.errors import NoSpaceError
from qaicl.models.files import git_blob, readable_size, require_space, sha256


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (98_362_432, "98.4 MB"),
        (999_999, "1 MB"),
        (3_554_214_621, "3.55 GB"),
        (120_000_000_000, "120 GB"),
    ],
)
def test_sizes_for_people(count, text):
    assert readable_size(count) == text


def test_checksum_of_a_file_larger_than_a_chunk(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(data)
    assert sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_the_blob_id_is_gits(tmp_path):
    (tmp_path / "x").write_bytes(b"one line\n")
    known = subprocess.run(
        ["git", "hash-object", "--no-filters", str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    digest = git_blob(9)
    digest.update(b"one line\n")
    assert digest.hexdigest() == known.stdout.strip()


def test_too_little_room_is_told_with_both_numbers(tmp_path):
    with pytest.raises(NoSpaceError, match="needed") as caught:
        require_space(tmp_path, 10**18)
    assert "free" in caught.value.why
