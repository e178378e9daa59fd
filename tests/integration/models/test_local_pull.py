import zipfile

import pytest

from qaicl.errors import DamagedFileError, DownloadError, UnsupportedModelError


@pytest.fixture
def directory(tmp_path, tiny_files):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in tiny_files.items():
        (folder / name).write_bytes(data)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("not taken")
    return folder


def test_a_directory_is_copied_without_code_and_hidden_files(installation, directory, tiny_files):
    home = installation(source=f"file:{directory}")
    home.pull()
    assert {path.name for path in home.store.open("tiny").iterdir()} == {
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (directory / "model.safetensors").read_bytes() == tiny_files["model.safetensors"]


def test_a_safetensors_file_brings_the_config_beside_it(installation, directory):
    (directory / "model.safetensors").rename(directory / "mine.safetensors")
    home = installation(source=f"file:{directory}/mine.safetensors")
    home.pull()
    assert (home.store.open("tiny") / "model.safetensors").is_file()
    assert home.store.verify("tiny").digest


def test_a_safetensors_file_without_a_config_does_not_land(installation, directory):
    (directory / "config.json").unlink()
    home = installation(source=f"file:{directory}/model.safetensors")
    with pytest.raises(DamagedFileError, match=r"no config\.json"):
        home.pull()
    home.assert_nothing_landed()


def test_a_wheel(installation, tmp_path, tiny_files):
    with zipfile.ZipFile(tmp_path / "mine-1.0-py3-none-any.whl", "w") as wheel:
        for name, data in tiny_files.items():
            wheel.writestr(f"mine/{name}", data)
    files = [{"path": "config.json"}, {"path": "tokenizer.json"}, {"path": "model.safetensors"}]
    home = installation(source=f"file:{tmp_path}/mine-1.0-py3-none-any.whl", root="mine", files=files)
    home.pull()
    assert home.store.verify("tiny")


def test_a_checksum_that_does_not_fit(installation, directory):
    home = installation(source=f"file:{directory}/model.safetensors", sha256="0" * 64)
    with pytest.raises(DamagedFileError, match="not the file that the catalogue names"):
        home.pull()
    home.assert_nothing_landed()


def test_an_incomplete_sharded_model_does_not_land(installation, directory):
    index = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    (directory / "model.safetensors.index.json").write_text(index)
    (directory / "model.safetensors").rename(directory / "model-1.safetensors")
    home = installation(source=f"file:{directory}")
    with pytest.raises(DamagedFileError, match=r"no model-2\.safetensors"):
        home.pull()
    home.assert_nothing_landed()


def test_a_cut_off_weight_file_does_not_land(installation, directory, tiny_files):
    (directory / "model.safetensors").write_bytes(tiny_files["model.safetensors"][:-1])
    home = installation(source=f"file:{directory}")
    with pytest.raises(DamagedFileError, match=r"cannot read model\.safetensors"):
        home.pull()
    home.assert_nothing_landed()


def test_a_path_that_is_not_there(installation, tmp_path):
    home = installation(source=f"file:{tmp_path}/none.gguf")
    with pytest.raises(DownloadError, match="does not exist"):
        home.pull()


def test_a_file_of_another_kind(installation, directory):
    home = installation(source=f"file:{directory}/pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="cannot take a model"):
        home.pull()
    home.assert_nothing_landed()
