"""Keys are secret from their first byte, and the allow-list follows its directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth

from qaicl.errors import NotAuthorisedError, WireError
from qaicl.wire import keys


def test_a_pair_is_written_and_read_back(tmp_path: Path) -> None:
    made = keys.make_keypair(tmp_path / "keys", "vm-1")
    assert keys.load_secret(tmp_path / "keys" / "vm-1.key_secret") == made
    assert zmq.auth.load_certificate(tmp_path / "keys" / "vm-1.key") == (made.public.encode(), None)
    assert zmq.curve_public(made.secret.encode()) == made.public.encode()
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["vm-1.key", "vm-1.key_secret"]


def test_the_secret_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    fsync = os.fsync

    def watching(handle: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watching)
    before = os.umask(0)
    try:
        keys.make_keypair(tmp_path, "client")
    finally:
        os.umask(before)
    assert modes[0] == 0o600
    assert stat.S_IMODE((tmp_path / "client.key_secret").stat().st_mode) == 0o600


def test_the_secret_stays_out_of_repr(tmp_path: Path) -> None:
    pair = keys.make_keypair(tmp_path, "client")
    assert pair.secret not in repr(pair)


def test_a_failed_write_leaves_the_old_pair_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = keys.make_keypair(tmp_path, "client")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WireError, match="No space left"):
        keys.make_keypair(tmp_path, "client")
    assert keys.load_secret(tmp_path / "client.key_secret") == old
    assert len(list(tmp_path.iterdir())) == 2


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys.make_keypair(tmp_path, "client")
    path = tmp_path / "client.key_secret"
    path.chmod(0o640)
    with pytest.raises(NotAuthorisedError) as caught:
        keys.load_secret(path)
    assert caught.value.fix == f"run: chmod 600 {path}"
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("content", ["", "rubbish", 'curve\n    public-key = "short"\n    secret-key = "short"\n'])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "client.key_secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(NotAuthorisedError):
        keys.load_secret(path)


def test_a_public_certificate_is_not_a_secret_one(tmp_path: Path) -> None:
    keys.make_keypair(tmp_path, "client")
    (tmp_path / "client.key").chmod(0o600)
    with pytest.raises(NotAuthorisedError, match="not a secret key"):
        keys.load_secret(tmp_path / "client.key")


def test_a_missing_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAuthorisedError, match="No such file"):
        keys.load_secret(tmp_path / "client.key_secret")


def test_the_allow_list_follows_its_directory(tmp_path: Path) -> None:
    pair = keys.make_keypair(tmp_path, "vm-2")
    allowed = keys.AllowList(tmp_path / "allowed")
    assert not allowed.allows("node", pair.public)
    (tmp_path / "allowed" / "node").mkdir(parents=True)
    target = tmp_path / "allowed" / "node" / "vm-2.key"
    target.write_bytes((tmp_path / "vm-2.key").read_bytes())
    assert allowed.allows("node", pair.public)
    assert allowed.name("node", pair.public) == "vm-2"
    assert not allowed.allows("client", pair.public)
    assert not allowed.allows("../node", pair.secret)

    rotated = keys.make_keypair(tmp_path / "allowed" / "node", "vm-2")
    assert allowed.allows("node", rotated.public)
    assert not allowed.allows("node", pair.public)

    target.unlink()
    assert not allowed.allows("node", rotated.public)


def test_a_damaged_allowed_key_lets_nobody_in_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = keys.make_keypair(tmp_path / "node", "good")
    (tmp_path / "node" / "bad.key").write_bytes(b"\x00\xff rubbish")
    assert keys.AllowList(tmp_path).allows("node", good.public)
    assert "bad.key" in caplog.text
