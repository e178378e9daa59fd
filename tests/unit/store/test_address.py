"""Addresses of the store: what is understood, and what is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.sentinel import SentinelConnectionPool

from qaicl.errors import NotAuthorisedError, UsageError
from qaicl.settings import StoreSettings
from qaicl.store.address import Address


def secret(path: Path, text: str = "s3cret\n", mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def options(settings: StoreSettings) -> dict[str, object]:
    return dict(Address.parse(settings).pool().connection_kwargs)


def test_a_plain_address() -> None:
    found = options(StoreSettings(url="redis://10.0.0.10:6380/2"))
    assert (found["host"], found["port"], found["db"]) == ("10.0.0.10", 6380, 2)


def test_a_socket() -> None:
    assert options(StoreSettings(url="unix:///run/valkey.sock"))["path"] == "/run/valkey.sock"


def test_tls_with_its_certificate() -> None:
    pool = Address.parse(StoreSettings(url="rediss://vm-1:6379?ssl_ca_certs=/etc/qaicl/ca.pem")).pool()
    assert pool.connection_class.__name__ == "SSLConnection"
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/qaicl/ca.pem"


def test_sentinels_and_their_service() -> None:
    address = Address.parse(StoreSettings(url="redis+sentinel://10.0.0.10:26379,10.0.0.20,[::1]:26380/main"))
    assert address.sentinels == (("10.0.0.10", 26379), ("10.0.0.20", 26379), ("::1", 26380))
    assert address.service == "main"
    assert isinstance(address.pool(), SentinelConnectionPool)


def test_the_service_comes_from_the_settings_where_the_address_has_none() -> None:
    address = Address.parse(StoreSettings(url="redis+sentinel://vm-1:26379", sentinel_service="qaicl"))
    assert address.service == "qaicl"


def test_sentinels_with_tls() -> None:
    pool = Address.parse(
        StoreSettings(url="rediss+sentinel://vm-1/main?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=no")
    ).pool()
    assert pool.connection_class.__name__ == "SentinelManagedSSLConnection"
    assert pool.connection_kwargs["ssl_ca_certs"] == "/etc/ca.pem"
    assert pool.connection_kwargs["ssl_check_hostname"] is False


def test_user_and_password_come_from_the_settings(tmp_path: Path) -> None:
    settings = StoreSettings(url="redis://vm-1", username="qaicl", password_file=secret(tmp_path / "password"))
    found = options(settings)
    assert (found["username"], found["password"]) == ("qaicl", "s3cret")
    address = Address.parse(settings)
    assert "s3cret" not in repr(address)
    assert "s3cret" not in str(address)


def test_sentinels_pass_user_and_password_on(tmp_path: Path) -> None:
    found = options(
        StoreSettings(url="redis+sentinel://vm-1/main", username="qaicl", password_file=secret(tmp_path / "password"))
    )
    assert (found["username"], found["password"]) == ("qaicl", "s3cret")


@pytest.mark.parametrize("url", ["redis://:s3cret@vm-1", "redis+sentinel://u:s3cret@a,b/main"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="holds a password") as caught:
        Address.parse(StoreSettings(url=url))
    assert "s3cret" not in str(caught.value)
    assert "0600" in caught.value.fix


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vm-1:6379",
        "http://vm-1",
        "redis://",
        "redis+sentinel://",
        "redis+sentinel://a,,b/main",
        "redis+sentinel://a:port/main",
        "redis://vm-1:99999999",
        "redis://[::1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a store"):
        Address.parse(StoreSettings(url=url)).pool()


def test_an_option_that_the_driver_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="colour"):
        Address.parse(StoreSettings(url="redis://vm-1?colour=red")).pool()


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [("s3cret", 0o644, "can be read by others"), ("\n", 0o600, "is empty")],
)
def test_a_bad_password_file_is_refused(tmp_path: Path, text: str, mode: int, complaint: str) -> None:
    file = secret(tmp_path / "password", text, mode)
    with pytest.raises(NotAuthorisedError, match=complaint):
        Address.parse(StoreSettings(url="redis://vm-1", password_file=file))


def test_a_missing_password_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAuthorisedError, match="No such file"):
        Address.parse(StoreSettings(url="redis://vm-1", password_file=str(tmp_path / "none")))
