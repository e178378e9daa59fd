import hashlib
import threading

import pytest

from qaicl.errors import (
    DamagedFileError,
    DownloadError,
    DownloadRefusedError,
    DownloadUnreachableError,
    UnsupportedModelError,
)
from qaicl.models import manifest
from qaicl.models.download import ATTEMPTS, ATTEMPTS_UNREACHED, part_of
from qaicl.models.progress import Phase

OTHER_COMMIT = "f" * 40


def weights(tiny_files):
    return tiny_files["model.safetensors"]


def test_a_pull_lands_what_a_model_needs_and_nothing_else(hub, installation, tiny_files):
    home = installation()
    landed = home.pull()
    directory = home.store.open("tiny")
    found = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != manifest.NAME}
    assert found == {name: tiny_files[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
    assert landed.files["model.safetensors"].sha256 == hashlib.sha256(weights(tiny_files)).hexdigest()
    assert home.store.manifest("tiny") == landed
    assert not home.store.partial("tiny").exists()


def test_a_second_pull_fetches_nothing(hub, installation):
    home = installation()
    first = home.pull()
    asked = len(hub.seen)
    assert home.pull() == first
    assert len(hub.seen) == asked


def test_progress_ends_at_the_whole_size(hub, installation, tiny_files):
    steps = []
    installation().pull(steps.append)
    last = [step for step in steps if step.phase is Phase.downloading and step.file == "model.safetensors"][-1]
    assert (last.done, last.total) == (len(weights(tiny_files)), len(weights(tiny_files)))


def test_the_token_goes_to_the_hub_only(hub, installation):
    installation().pull(token="hf_secret")
    assert all(seen.headers.get("authorization") == "Bearer hf_secret" for seen in hub.seen if seen.host == "hub")
    at_cdn = [seen for seen in hub.seen if seen.host == "cdn"]
    assert at_cdn
    assert not any("authorization" in seen.headers for seen in at_cdn)


def test_a_broken_connection_is_resumed_and_no_byte_comes_twice(hub, installation, tiny_files):
    home = installation()
    hub.fail("model.safetensors", {"cut": 1_000_000}, {"cut": 500_000})
    home.pull()
    assert home.store.verify("tiny")
    assert hub.sent("model.safetensors") == len(weights(tiny_files))
    resumed = [seen.headers for seen in hub.seen if seen.host == "cdn" and "range" in seen.headers]
    assert [headers["range"] for headers in resumed] == ["bytes=1000000-", "bytes=1500000-"]
    assert all(headers["if-range"] for headers in resumed)
    assert len(home.pauses) == 2


def test_a_server_that_ignores_range_starts_again(hub, installation, tiny_files):
    home = installation()
    hub.ignore_range = True
    hub.fail("model.safetensors", {"cut": 1_000_000})
    home.pull()
    assert home.store.verify("tiny")
    assert hub.sent("model.safetensors") == len(weights(tiny_files)) + 1_000_000


def test_a_part_of_an_older_version_is_not_continued(hub, installation, tiny_files):
    home = installation()
    hub.fail("model.safetensors", *[{"cut": 1_000_000}] + [{"status": 503}] * ATTEMPTS)
    with pytest.raises(DownloadError):
        home.pull()
    hub.etags["model.safetensors"] = "another-version"
    home.pull()
    assert home.store.verify("tiny")
    assert hub.sent("model.safetensors") >= len(weights(tiny_files)) + 1_000_000


def test_a_part_whose_bytes_went_bad_is_fetched_again(hub, installation, tiny_files):
    home = installation()
    hub.fail("model.safetensors", *[{"cut": 1_000_000}] + [{"status": 503}] * ATTEMPTS)
    with pytest.raises(DownloadError):
        home.pull()
    part = part_of(home.store.partial("tiny") / "files" / "model.safetensors")
    part.write_bytes(bytes(len(part.read_bytes())))
    home.pull()
    assert home.store.verify("tiny")


def test_wrong_bytes_land_nowhere(hub, installation, tiny_files):
    home = installation()
    changed = bytearray(weights(tiny_files))
    changed[-1] ^= 1
    hub.fail("model.safetensors", {"body": bytes(changed)})
    with pytest.raises(DamagedFileError, match=r"model\.safetensors arrived damaged") as caught:
        home.pull()
    assert "SHA-256" in caught.value.why
    home.assert_nothing_landed()
    assert not list(home.store.directory.rglob("*.safetensors*"))


def test_wrong_bytes_of_a_small_file_are_seen_by_its_blob_id(hub, installation):
    home = installation()
    hub.fail("config.json", {"body": b'{"model_type": "llamb"}'})
    with pytest.raises(DamagedFileError, match="arrived damaged") as caught:
        home.pull()
    assert "git blob id" in caught.value.why
    home.assert_nothing_landed()


def test_a_hub_that_lists_no_checksums_is_checked_by_its_headers(hub, installation, tiny_files):
    home = installation()
    hub.bare_list = True
    home.pull()
    assert home.store.verify("tiny")
    other = installation(directory=home.store.directory.parent / "other")
    hub.fail("model.safetensors", {"body": bytes(len(weights(tiny_files)))})
    with pytest.raises(DamagedFileError, match="arrived damaged"):
        other.pull()
    other.assert_nothing_landed()


def test_a_body_longer_than_announced_is_refused(hub, installation, tiny_files):
    home = installation()
    hub.fail("model.safetensors", {"body": weights(tiny_files) + b"more"})
    with pytest.raises(DamagedFileError, match="another size"):
        home.pull()
    home.assert_nothing_landed()


@pytest.mark.parametrize(
    "listed",
    [{"path": "model.safetensors", "size": 5}, {"path": "model.safetensors", "sha256": "0" * 64}],
    ids=["size", "sha256"],
)
def test_a_file_other_than_the_catalogue_names_is_refused_before_a_byte_of_it(hub, installation, listed):
    home = installation(files=[{"path": "config.json"}, {"path": "tokenizer.json"}, listed])
    with pytest.raises(DamagedFileError, match="not the file that the catalogue names"):
        home.pull()
    home.assert_nothing_landed()
    assert hub.sent("model.safetensors") == 0


def test_the_catalogues_checksum_counts_where_the_hub_gives_none(hub, installation):
    hub.bare_list = True
    listed = [{"path": "config.json", "sha256": "0" * 64}, {"path": "tokenizer.json"}, {"path": "model.safetensors"}]
    home = installation(files=listed)
    with pytest.raises(DamagedFileError, match=r"config\.json"):
        home.pull()
    home.assert_nothing_landed()


@pytest.mark.parametrize("status", [401, 403])
def test_no_access_says_what_to_do(hub, installation, status):
    home = installation()
    hub.fail("/revision/0123456789abcdef0123456789abcdef01234567", {"status": status})
    with pytest.raises(DownloadRefusedError, match="me/tiny") as caught:
        home.pull()
    assert caught.value.exit_code == 5
    assert "HF_TOKEN" in caught.value.fix
    home.assert_nothing_landed()


def test_a_repository_that_is_not_there(hub, installation):
    home = installation(source="hf:me/none@main")
    with pytest.raises(DownloadError, match="me/none does not exist"):
        home.pull()
    home.assert_nothing_landed()


def test_a_file_that_went_away_after_the_list(hub, installation):
    home = installation()
    hub.fail("tokenizer.json", {"status": 404})
    with pytest.raises(DownloadError, match=r"tokenizer\.json does not exist"):
        home.pull()
    home.assert_nothing_landed()


def test_a_missing_listed_file_is_named(hub, installation):
    home = installation(files=[{"path": "config.json"}, {"path": "weights-2.safetensors"}])
    with pytest.raises(DownloadError, match=r"me/tiny has no weights-2\.safetensors"):
        home.pull()


def test_too_many_requests_waits_as_long_as_told(hub, installation):
    home = installation()
    hub.fail("config.json", {"status": 429, "headers": {"Retry-After": "17"}})
    home.pull()
    assert home.pauses == [17.0]
    assert home.store.verify("tiny")


def test_server_errors_are_retried_with_growing_pauses(hub, installation):
    home = installation()
    hub.fail("model.safetensors", *[{"status": status} for status in (500, 502, 503, 504)])
    home.pull()
    assert home.store.verify("tiny")
    assert len(home.pauses) == 4
    for number, pause in enumerate(home.pauses):
        assert 0.25 * 2**number <= pause <= 0.5 * 2**number


def test_a_server_that_stays_broken_ends_with_the_reason_and_keeps_what_came(hub, installation, tiny_files):
    home = installation()
    hub.fail("model.safetensors", *[{"cut": 1_000_000}] + [{"status": 503}] * ATTEMPTS)
    with pytest.raises(DownloadError, match=r"cannot fetch model\.safetensors") as caught:
        home.pull()
    assert "503" in caught.value.why
    assert "resumes" in caught.value.fix
    home.assert_nothing_landed()
    home.pull()
    assert hub.sent("model.safetensors") == len(weights(tiny_files))


def test_nobody_listens(hub, installation):
    home = installation(hub="http://127.0.0.1:1")
    with pytest.raises(DownloadUnreachableError) as caught:
        home.pull()
    assert caught.value.exit_code == 4
    assert len(home.pauses) == ATTEMPTS_UNREACHED - 1


def test_an_answer_that_is_no_hubs(hub, installation):
    hub.list_changes = {"siblings": "none"}
    with pytest.raises(DownloadError, match="file list"):
        installation().pull()


@pytest.mark.parametrize("name", ["../../evil.safetensors", "/tmp/evil.safetensors", "a/../../evil.safetensors"])
def test_hostile_file_names_are_refused(hub, installation, name):
    hub.list_changes = {"siblings": [{"rfilename": "config.json"}, {"rfilename": name}]}
    home = installation()
    with pytest.raises(DamagedFileError, match="hostile"):
        home.pull()
    home.assert_nothing_landed()
    assert not list(home.store.directory.parent.rglob("evil*"))


def test_a_hub_that_lists_another_revision(hub, installation):
    hub.list_changes = {"sha": OTHER_COMMIT}
    with pytest.raises(DamagedFileError, match="another revision"):
        installation().pull()


def test_a_hub_that_serves_another_revision(hub, installation):
    hub.answer_commit = OTHER_COMMIT
    home = installation()
    with pytest.raises(DamagedFileError, match="another revision"):
        home.pull()
    home.assert_nothing_landed()


def test_a_model_of_another_family_does_not_land(hub, installation):
    home = installation(family="qwen2")
    with pytest.raises(UnsupportedModelError, match="'llama' model, not a 'qwen2'"):
        home.pull()
    home.assert_nothing_landed()


def test_weights_that_are_no_safetensors_do_not_land(hub, installation):
    hub.repos["me/tiny"]["model.safetensors"] = b"version https://git-lfs.github.com/spec/v1\n"
    home = installation()
    with pytest.raises(DamagedFileError, match=r"cannot read model\.safetensors"):
        home.pull()
    home.assert_nothing_landed()


def test_a_changed_entry_pulls_again_and_replaces(hub, installation, tiny_files):
    installation().pull()
    hub.repos["me/tiny"]["config.json"] = b'{"model_type": "llama", "hidden_size": 8}'
    home = installation(source="hf:me/tiny@main")
    home.pull()
    assert b"hidden_size" in (home.store.open("tiny") / "config.json").read_bytes()
    assert home.store.verify("tiny").source == "hf:me/tiny@main"


def test_a_damaged_model_is_mended_by_a_pull(hub, installation, tiny_files):
    home = installation()
    home.pull()
    path = home.store.path("tiny") / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="tiny"):
        home.store.verify("tiny")
    home.pull()
    assert path.read_bytes() == weights(tiny_files)


def test_two_pulls_at_once_fetch_once(hub, installation, tiny_files):
    first, second = installation(), installation()
    hub.fail("model.safetensors", {"hold": 1_000_000})
    waiting = threading.Event()
    failed = []

    def pull(home, progress):
        try:
            home.pull(progress)
        except BaseException as error:
            failed.append(error)
            raise

    one = threading.Thread(target=pull, args=(first, lambda _step: None))
    one.start()
    assert hub.holding.wait(20)
    two = threading.Thread(target=pull, args=(second, lambda step: step.phase is Phase.waiting and waiting.set()))
    two.start()
    assert waiting.wait(20)
    hub.release.set()
    one.join(30)
    two.join(30)
    assert not failed
    assert hub.sent("model.safetensors") == len(weights(tiny_files))
    assert second.store.verify("tiny")
