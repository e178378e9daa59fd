"""Secrets stay secret, and the journal survives a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaicl.errors import ProvisionError, SecretError
from qaicl.provision import journal
from qaicl.provision.secrets import SecretStore, redis_word


def test_secrets_come_from_file_environment_and_person(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("from-file\n")
    file.chmod(0o600)
    references = {"a": f"file:{file}", "b": "env:B", "c": "prompt"}
    store = SecretStore(references, tmp_path / "made", ask=lambda name: f"typed-{name}", environ={"B": "from-env"})
    assert [store.given(name) for name in ("a", "b", "c", "d")] == ["from-file", "from-env", "typed-c", None]
    assert store.redact("x from-file y typed-c") == "x <secret a> y <secret c>"


def test_a_generated_secret_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first = SecretStore({}, tmp_path / "made").get("redis")
    assert SecretStore({}, tmp_path / "made").get("redis") == first
    assert len(first) == 43
    assert (tmp_path / "made" / "redis").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("reference", ["file:/nowhere/at/all", "env:NOT_SET", "prompt"])
def test_a_reference_that_leads_nowhere_is_an_error(tmp_path: Path, reference: str) -> None:
    with pytest.raises(SecretError) as caught:
        SecretStore({"x": reference}, tmp_path, environ={}).get("x")
    assert caught.value.exit_code == 2
    assert caught.value.fix


@pytest.mark.parametrize(("value", "words"), [("", "holds nothing"), ("one\ntwo", "several lines")])
def test_a_secret_is_one_line(tmp_path: Path, value: str, words: str) -> None:
    with pytest.raises(SecretError, match="is no password") as caught:
        SecretStore({"x": "env:X"}, tmp_path, environ={"X": value}).get("x")
    assert words in caught.value.why
    assert "two" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"), [("a-Z_09.", "a-Z_09."), ("two words", '"two words"'), ('a"b\\c', '"a\\"b\\\\c"'), ("#", '"#"')]
)
def test_a_secret_is_one_word_for_redis(text: str, word: str) -> None:
    assert redis_word(text) == word


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("x")
    file.chmod(0o644)
    with pytest.raises(SecretError, match="read by others"):
        SecretStore({"x": f"file:{file}"}, tmp_path).get("x")


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_secret_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s"
    if content is None:
        path.mkdir(mode=0o700)
    else:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(SecretError, match="cannot be read"):
        SecretStore({"x": f"file:{path}"}, tmp_path).get("x")


def test_a_secret_is_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []
    store = SecretStore({"x": "prompt"}, tmp_path, ask=lambda name: asked.append(name) or "typed")  # type: ignore[func-returns-value]
    assert [store.get("x"), store.get("x")] == ["typed", "typed"]
    assert asked == ["x"]


def test_a_secret_within_another_is_taken_out_whole(tmp_path: Path) -> None:
    store = SecretStore({"a": "env:A", "b": "env:B"}, tmp_path, environ={"A": "pass", "B": "password"})
    store.get("a"), store.get("b")
    assert store.redact("a password and a pass") == "a <secret b> and a <secret a>"


def test_a_secret_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("in the way")
    with pytest.raises(ProvisionError, match="cannot write"):
        SecretStore({}, tmp_path / "made").get("redis")


def test_the_journal_tells_where_a_killed_run_stood(tmp_path: Path) -> None:
    first = journal.Journal(tmp_path, "a", "run-1")
    first.write("run-started")
    first.write("started", "base/x")
    first.write("done", "base/x")
    first.write("run-done")
    assert journal.interrupted_at(journal.read(tmp_path, "a")) is None
    second = journal.Journal(tmp_path, "a", "run-2")
    second.write("run-started")
    second.write("started", "base/y")
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"version":1,"time":')  # what a kill in the middle of a write leaves
    entries = journal.read(tmp_path, "a")
    assert len(entries) == 6
    assert journal.interrupted_at(entries) == "base/y"
    journal.Journal(tmp_path, "a", "run-3").write("run-started")  # what was torn takes no later line with it
    assert [entry.run for entry in journal.last_run(journal.read(tmp_path, "a"))] == ["run-3"]
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600
