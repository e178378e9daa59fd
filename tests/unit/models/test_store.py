import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from qaicl import settings
from qaicl.errors import DamagedFileError, ModelError, ModelMissingError, UnknownModelError
from qaicl.models import catalogue, ready
from qaicl.models.listing import listing
from qaicl.models.sources.local import LocalSource
from qaicl.models.store import Store


@pytest.fixture
def model(tmp_path):
    return catalogue.parse(
        '[[model]]\nname = "mine"\nsource = "file:/somewhere"\nfamily = "llama"\nlicence = "MIT"\n', "test"
    )[0]


@pytest.fixture
def store(tmp_path, model):
    """A store with one model in it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.arange(1000, dtype=np.float32)}, folder / "model.safetensors")
    made = Store(tmp_path / "store")
    made.pull(model, LocalSource(model, folder))
    return made


def test_an_empty_store(tmp_path):
    store = Store(tmp_path / "nowhere")
    assert store.list() == []
    with pytest.raises(ModelMissingError) as caught:
        store.open("smollm2-135m")
    assert caught.value.fix == "run: qaicl model pull smollm2-135m"
    assert not (tmp_path / "nowhere").exists()


def test_a_model_opens_and_verifies(store):
    assert store.list() == ["mine"]
    assert store.open("mine") == store.path("mine")
    assert store.verify("mine") == store.manifest("mine")


def test_the_digest_is_that_of_the_weights_only(store, model, tmp_path):
    digest = store.manifest("mine").digest
    (tmp_path / "mine" / "tokenizer.json").write_text('{"other": 1}')
    other = Store(tmp_path / "other").pull(model, LocalSource(model, tmp_path / "mine"))
    assert other.digest == digest
    save_file({"w": np.ones(1000, dtype=np.float32)}, tmp_path / "mine" / "model.safetensors")
    assert Store(tmp_path / "third").pull(model, LocalSource(model, tmp_path / "mine")).digest != digest


def test_a_flipped_bit_is_found_by_verify(store):
    path = store.path("mine") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[2000] ^= 4
    path.write_bytes(data)
    assert store.open("mine")
    with pytest.raises(DamagedFileError, match="model 'mine' is damaged") as caught:
        store.verify("mine")
    assert caught.value.why == "model.safetensors has other content"
    assert caught.value.fix == "run: qaicl model pull mine"


def test_every_damaged_file_is_named(store):
    (store.path("mine") / "config.json").unlink()
    with (store.path("mine") / "model.safetensors").open("ab") as file:
        file.write(b"more")
    for check in (store.open, store.verify):
        with pytest.raises(DamagedFileError) as caught:
            check("mine")
        assert "config.json is missing" in caught.value.why
        assert "model.safetensors has" in caught.value.why


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"layout": "one"}', b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read(store, text):
    (store.path("mine") / "manifest.json").write_bytes(text)
    with pytest.raises(DamagedFileError, match=r"manifest\.json"):
        store.open("mine")


def test_a_directory_that_no_pull_made(store):
    (store.path("mine") / "manifest.json").unlink()
    with pytest.raises(DamagedFileError, match="has no manifest"):
        store.open("mine")


def test_a_manifest_that_names_files_elsewhere_is_refused(store, tmp_path):
    path = store.path("mine") / "manifest.json"
    written = json.loads(path.read_text())
    written["files"]["../../mine/config.json"] = written["files"]["config.json"]
    path.write_text(json.dumps(written))
    with pytest.raises(DamagedFileError, match=r"manifest\.json"):
        store.open("mine")


def test_an_older_layout_is_pulled_again(store):
    path = store.path("mine") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 0}))
    with pytest.raises(ModelMissingError, match="another version"):
        store.open("mine")


@pytest.mark.parametrize("name", ["", ".", "..", ".partial", "../mine", "a/b", "a\\b", "a\0"])
def test_what_cannot_be_a_name(store, name):
    with pytest.raises(UnknownModelError):
        store.open(name)


def test_a_store_that_cannot_be_written(tmp_path, model):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot write to the model store") as caught:
        Store(tmp_path / "file" / "store").pull(model, LocalSource(model, tmp_path))
    assert "models.directory" in caught.value.fix


def test_the_listing_says_the_state_of_each(store, model, tmp_path):
    changed = catalogue.parse(
        '[[model]]\nname = "mine"\nsource = "file:/elsewhere"\nfamily = "llama"\nlicence = "MIT"\n', "test"
    )[0]
    other = catalogue.parse(
        '[[model]]\nname = "other"\nsource = "file:/x"\nfamily = "bert"\nlicence = "MIT"\nsize = 7\n', "test"
    )[0]
    rows = {row.name: row for row in listing(catalogue.Catalogue([model, other]), store)}
    assert (rows["mine"].state, rows["mine"].size) == ("here", store.manifest("mine").size)
    assert (rows["other"].state, rows["other"].size) == ("missing", 7)
    assert [row.state for row in listing(catalogue.Catalogue([changed]), store)] == ["outdated"]
    assert [row.state for row in listing(catalogue.Catalogue([]), store)] == ["here"]
    (store.path("mine") / "config.json").unlink()
    assert [row.state for row in listing(catalogue.Catalogue([model]), store)] == ["damaged"]
    assert [row.state for row in listing(catalogue.Catalogue([]), store)] == ["damaged"]


def test_ready_gives_the_directory_or_says_what_to_do(store, tmp_path):
    environ = {"QAICL_HOME": str(tmp_path), "QAICL_MODELS_DIRECTORY": str(store.directory)}
    loaded = settings.load(environ=environ)
    assert ready(loaded, "mine") == store.path("mine")
    with pytest.raises(ModelMissingError, match="smollm2-135m"):
        ready(loaded, "smollm2-135m")
    with pytest.raises(UnknownModelError, match="smollm3"):
        ready(loaded, "smollm3")
