"""Servers that others run: users and passwords, encryption, Sentinel and its failover."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import os
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from qaicl.errors import NotAuthorisedError, StoreError
from qaicl.settings import StoreSettings
from qaicl.store import ops
from qaicl.store.address import Address
from qaicl.store.embedded import binary
from qaicl.store.scripts import Scripts
from qaicl.store.session import Session

Serve = Callable[..., "Server"]

ACL = (
    "user qaicl on >s3cret resetkeys ~{test}:* resetchannels &{test}:* -@all"
    " +evalsha +script|load +select +ping +set +del +pexpire +time +publish"
    " +hget +hmget +hset +xadd +xdel +xlen +xrange +sadd +srem +smembers"
)
"""The rights that docs/store.md names: enough for all scripts, and no more."""


class Server:
    """A server process on a port of its own."""

    def __init__(self, directory: Path, lines: list[str], *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        directory.mkdir()
        configuration = directory / "server.conf"
        configuration.write_text(
            "\n".join([f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", "save ''", *lines]) + "\n"
        )
        with (directory / "log").open("w") as log:
            self.process = subprocess.Popen([binary(), configuration, *flags], stdout=log)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, (directory / "log").read_text()
                time.sleep(0.005)

    def raw(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Server] = []
    numbers = itertools.count()

    def serve(*lines: str, flags: tuple[str, ...] = ()) -> Server:
        started.append(Server(tmp_path / f"server-{next(numbers)}", list(lines), *flags))
        return started[-1]

    yield serve
    for server in started:
        server.kill()


def secret(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def session(settings: StoreSettings) -> Session:
    return Session(Address.parse(settings), Scripts("test", "o-1"))


# --- users and passwords -------------------------------------------------------------------------


def test_a_user_with_few_rights_can_do_everything_that_is_needed(serve: Serve, tmp_path: Path) -> None:
    server = serve("user default off", ACL)
    settings = StoreSettings(
        url=f"redis://127.0.0.1:{server.port}", username="qaicl", password_file=secret(tmp_path / "p", "s3cret\n")
    )
    with session(settings) as store:
        assert store.call(ops.Acquire("o-1", 1000)) == ops.Leased(1, "o-1")
        assert store.call(ops.Renew("o-1", 1, 1000)) == ops.Leased(1, "o-1")
        assert store.call(ops.TakeOver("o-1", 1, 1000)) == ops.Leased(2, "o-1")
        assert store.call(ops.Release("o-1", 2)) == ops.Released()
        assert store.call(ops.Accept("r", b"p", 2)) == ops.Accepted()
        assert store.call(ops.RecordTokens("r", 2, 0, (b"a",))) == ops.Recorded(1)
        assert isinstance(store.call(ops.LoadOpen()), ops.Open)
        assert store.call(ops.Finish("r", 2, "done", b"")) == ops.Finished()
        assert store.call(ops.Reaccept("r-2", 2, b"p", (b"a",))) == ops.Recorded(1)
        assert isinstance(store.call(ops.Load("r")), ops.Loaded)
        assert store.call(ops.Verify(("r",))) == ops.Verified({"r": ("done", 1)})
        assert store.call(ops.Announce("node", "n", "1", b"x", 1000)) == ops.Announced()
        assert store.call(ops.List("node")) == ops.Listed({"n": b"x"})
        assert store.call(ops.Withdraw("node", "n", "1")) == ops.Withdrawn()


@pytest.mark.parametrize(
    ("username", "password"), [("qaicl", "wrong"), ("stranger", "s3cret"), ("", "s3cret"), ("", "")]
)
def test_a_wrong_user_or_password_is_not_authorised(serve: Serve, tmp_path: Path, username: str, password: str) -> None:
    server = serve("user default off", ACL)
    settings = StoreSettings(
        url=f"redis://127.0.0.1:{server.port}",
        username=username,
        password_file=secret(tmp_path / "p", password) if password else "",
    )
    with pytest.raises(NotAuthorisedError, match="refuses us") as caught:
        session(settings).open()
    assert caught.value.exit_code == 5
    assert "store.password_file" in caught.value.fix
    assert "s3cret" not in str(caught.value)


def test_a_plain_password(serve: Serve, tmp_path: Path) -> None:
    server = serve("requirepass s3cret")
    url = f"redis://127.0.0.1:{server.port}"
    with session(StoreSettings(url=url, password_file=secret(tmp_path / "p", "s3cret"))) as store:
        assert store.call(ops.List("node")) == ops.Listed({})
    with pytest.raises(NotAuthorisedError):
        session(StoreSettings(url=url, password_file=secret(tmp_path / "w", "wrong"))).open()


def test_rights_that_are_missing_are_named(serve: Serve, tmp_path: Path) -> None:
    server = serve("user default off", ACL.replace("+set", "+get"))
    settings = StoreSettings(
        url=f"redis://127.0.0.1:{server.port}", username="qaicl", password_file=secret(tmp_path / "p", "s3cret")
    )
    with pytest.raises(NotAuthorisedError, match="set"):
        session(settings).open()


def test_a_worker_whose_password_changes_says_so(serve: Serve, tmp_path: Path, listen: Callable[..., Any]) -> None:
    server = serve("requirepass s3cret")
    settings = StoreSettings(url=f"redis://127.0.0.1:{server.port}", password_file=secret(tmp_path / "p", "s3cret"))
    listener = listen(Address.parse(settings))
    listener.until_up()
    with redis.Redis(port=server.port, password="s3cret") as raw:
        raw.config_set("requirepass", "another")
        raw.client_kill_filter(_type="normal", skipme=True)
    listener.until(lambda: any(isinstance(down.error, NotAuthorisedError) for down in listener.downs), "refused")
    with redis.Redis(port=server.port, password="another") as raw:
        raw.config_set("requirepass", "s3cret")
    listener.until_up(2)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(StoreError, match="does not answer") as caught:
            session(StoreSettings(url=f"redis://127.0.0.1:{taken.getsockname()[1]}")).open()
    assert caught.value.exit_code == 4


def test_something_else_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError):
            session(StoreSettings(url=f"redis://127.0.0.1:{web.getsockname()[1]}")).open()
        thread.join()


# --- Sentinel ------------------------------------------------------------------------------------


SENTINELS = "s3ntinels"


def watched(sentinels: list[Server], password_file: str) -> StoreSettings:
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    return StoreSettings(url=f"redis+sentinel://{hosts}/qaicl", sentinel_password_file=password_file)


@pytest.fixture
def trio(serve: Serve) -> tuple[Server, Server, list[Server]]:
    """A master, its replica, and three sentinels that agree, and answer only who knows their password."""
    master = serve("min-replicas-to-write 0", "repl-diskless-sync-delay 0")
    replica = serve(f"replicaof 127.0.0.1 {master.port}")
    with replica.raw() as raw:
        end = time.monotonic() + 10
        while raw.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < end
            time.sleep(0.01)
    watch = (
        f"sentinel monitor qaicl 127.0.0.1 {master.port} 2",
        "sentinel down-after-milliseconds qaicl 300",
        "sentinel failover-timeout qaicl 2000",
        f"requirepass {SENTINELS}",
        f"sentinel sentinel-pass {SENTINELS}",
    )
    sentinels = [serve(*watch, flags=("--sentinel",)) for _ in range(3)]
    for sentinel in sentinels:
        with redis.Redis(port=sentinel.port, password=SENTINELS, decode_responses=True) as raw:
            end = time.monotonic() + 15
            while True:
                state = raw.sentinel_master("qaicl")
                if state["num-slaves"] == 1 and state["num-other-sentinels"] == 2:
                    break
                assert time.monotonic() < end, state
                time.sleep(0.02)
    return master, replica, sentinels


def test_a_worker_follows_sentinel_to_the_new_master(
    trio: tuple[Server, Server, list[Server]], listen: Callable[..., Any], tmp_path: Path
) -> None:
    master, replica, sentinels = trio
    listener = listen(Address.parse(watched(sentinels, secret(tmp_path / "p", SENTINELS))))
    listener.until_up()
    assert listener.ask(ops.Acquire("o-1", 60_000)) == ops.Leased(1, "o-1")
    assert listener.ask(ops.Reaccept("r", 1, b"prompt", (b"a", b"b"))) == ops.Recorded(2)
    with master.raw() as raw:
        assert raw.wait(1, 5000) == 1
    # One sentinel may be dead as well.
    sentinels[0].kill()
    master.kill()
    listener.until_up(2)
    with replica.raw() as raw:
        assert raw.role()[0] == "master"
    assert listener.ask(ops.Verify(("r",))) == ops.Verified({"r": ("open", 2)})
    assert listener.ask(ops.Renew("o-1", 1, 60_000)) == ops.Leased(1, "o-1")
    assert listener.ask(ops.RecordTokens("r", 1, 2, (b"c",))) == ops.Recorded(3)


def test_a_failover_that_loses_the_last_writes_is_mended(
    trio: tuple[Server, Server, list[Server]], listen: Callable[..., Any], tmp_path: Path
) -> None:
    master, replica, sentinels = trio
    listener = listen(Address.parse(watched(sentinels, secret(tmp_path / "p", SENTINELS))))
    listener.until_up()
    listener.ask(ops.Acquire("o-1", 60_000))
    assert listener.ask(ops.Reaccept("r", 1, b"prompt", (b"a",))) == ops.Recorded(1)
    with master.raw() as raw:
        raw.wait(1, 5000)
    # The replica hears nothing of what follows, nor does its kernel.
    os.kill(replica.process.pid, signal.SIGSTOP)
    with master.raw() as raw:
        assert raw.client_kill_filter(_type="replica") == 1
    assert listener.ask(ops.TakeOver("o-1", 1, 60_000)) == ops.Leased(2, "o-1")
    assert listener.ask(ops.RecordTokens("r", 2, 1, (b"b", b"c"))) == ops.Recorded(3)
    assert listener.ask(ops.Accept("late", b"p", 2)) == ops.Accepted()
    master.kill()
    os.kill(replica.process.pid, signal.SIGCONT)
    listener.until_up(2)
    lost = listener.ask(ops.Verify(("r", "late")))
    assert lost == ops.Verified({"r": ("open", 1), "late": (None, 0)})
    assert listener.ask(ops.RecordTokens("r", 2, 3, (b"d",))) == ops.Gap(1)
    assert listener.ask(ops.RecordTokens("late", 2, 0, (b"a",))) == ops.Missing()
    assert listener.ask(ops.Renew("o-1", 2, 60_000)) == ops.Leased(2, "o-1")
    assert listener.ask(ops.Reaccept("r", 2, b"prompt", (b"a", b"b", b"c"))) == ops.Recorded(3)
    assert listener.ask(ops.Reaccept("late", 2, b"p", ())) == ops.Recorded(0)
    assert listener.ask(ops.Verify(("r", "late"))) == ops.Verified({"r": ("open", 3), "late": ("open", 0)})


@pytest.mark.parametrize("password", ["wrong", ""])
def test_sentinels_do_not_answer_who_does_not_know_their_password(serve: Serve, tmp_path: Path, password: str) -> None:
    one = serve("sentinel monitor qaicl 127.0.0.1 9 1", f"requirepass {SENTINELS}", flags=("--sentinel",))
    settings = watched([one], secret(tmp_path / "p", password) if password else "")
    with pytest.raises(NotAuthorisedError, match="refuse us") as caught:
        session(settings).open()
    assert caught.value.why == "No master found for 'qaicl'"
    assert "sentinel_password_file" in caught.value.fix


def test_sentinels_that_know_no_such_service(serve: Serve) -> None:
    url = f"redis+sentinel://127.0.0.1:{serve(flags=('--sentinel',)).port}/another"
    with pytest.raises(StoreError, match="No master found for 'another'"):
        session(StoreSettings(url=url)).open()


# --- encryption ----------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path, serve: Serve) -> Iterator[tuple[int, Path]]:
    """A server behind a proxy that speaks TLS, which the embedded server was built without."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = tmp_path / "ca.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_pem)
    backend = serve().port
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(plain: socket.socket) -> None:
        with plain:
            try:
                near = context.wrap_socket(plain, server_side=True)
            except OSError:
                return
            with near, socket.create_connection(("127.0.0.1", backend)) as far:
                while True:
                    ready = [near] if near.pending() else select.select([near, far], [], [])[0]
                    for source, target in ((near, far), (far, near)):
                        if source in ready:
                            data = source.recv(65536)
                            if not data:
                                return
                            target.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1], pem
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_an_encrypted_connection(tls: tuple[int, Path]) -> None:
    port, authority = tls
    with session(StoreSettings(url=f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}")) as store:
        assert store.call(ops.Accept("r", bytes(100_000), 1)) == ops.Accepted()
        loaded = store.call(ops.Load("r"))
        assert isinstance(loaded, ops.Loaded)
        assert loaded.request is not None
        assert loaded.request.payload == bytes(100_000)
        assert store.alive()


def test_a_certificate_that_is_not_trusted(tls: tuple[int, Path]) -> None:
    with pytest.raises(StoreError, match=r"(?i)certificate"):
        session(StoreSettings(url=f"rediss://127.0.0.1:{tls[0]}")).open()


def test_no_encryption_where_it_is_expected(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qaicl.store.address.CONNECT_SECONDS", 0.3)
    monkeypatch.setattr("qaicl.store.address.ANSWER_SECONDS", 0.3)
    with pytest.raises(StoreError, match="does not answer"):
        session(StoreSettings(url=f"rediss://127.0.0.1:{serve().port}")).open()
