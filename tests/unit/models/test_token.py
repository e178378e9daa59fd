import msgspec
import pytest

from qaicl import settings
from qaicl.errors import SettingsError
from qaicl.models.token import hub_token


@pytest.fixture
def with_file(tmp_path):
    loaded = settings.load(environ={"QAICL_HOME": str(tmp_path), "QAICL_MODELS_TOKEN_FILE": str(tmp_path / "token")})
    assert msgspec.to_builtins(loaded.values.models)["token_file"]
    return loaded, tmp_path / "token"


def test_no_token_is_set(tmp_path):
    assert hub_token(settings.load(environ={"QAICL_HOME": str(tmp_path)}), {}) == ""


def test_the_environment_wins(with_file):
    assert hub_token(with_file[0], {"HF_TOKEN": " hf_abc\n"}) == "hf_abc"


def test_a_file_that_only_the_owner_reads(with_file):
    loaded, path = with_file
    path.touch(mode=0o600)
    path.write_text("hf_secret\n")
    assert hub_token(loaded, {}) == "hf_secret"


def test_a_file_that_others_can_read_is_refused(with_file):
    loaded, path = with_file
    path.write_text("hf_secret\n")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="others") as caught:
        hub_token(loaded, {})
    assert "chmod 600" in caught.value.fix
    assert "hf_secret" not in str(caught.value)


def test_a_file_that_is_not_there(with_file):
    with pytest.raises(SettingsError, match="cannot read"):
        hub_token(with_file[0], {})


def test_what_could_not_stand_in_a_header_is_refused():
    with pytest.raises(SettingsError, match="HF_TOKEN") as caught:
        hub_token(settings.load(environ={"QAICL_HOME": "/nowhere"}), {"HF_TOKEN": "a\r\nHost: evil"})
    assert "evil" not in str(caught.value)
