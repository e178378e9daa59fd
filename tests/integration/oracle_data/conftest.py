"""Local services and a throw-away PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, make_url

from qaicl.oracle import database
from qaicl.oracle.store import Store

_spec = importlib.util.spec_from_file_location("oracle_services", Path(__file__).parent / "services.py")
assert _spec is not None
assert _spec.loader is not None
oracle_services = importlib.util.module_from_spec(_spec)
sys.modules["oracle_services"] = oracle_services
_spec.loader.exec_module(oracle_services)


@pytest.fixture
def services() -> Iterator[Any]:
    running = oracle_services.Services()
    yield running
    running.close()


def _binary(name: str) -> Path | None:
    if found := shutil.which(name):
        return Path(found).resolve()
    return next(iter(sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a cluster made for this run, on a Unix socket; its last part is to be a database's name."""
    initdb, server = _binary("initdb"), _binary("postgres")
    if initdb is None or server is None:
        pytest.skip("no PostgreSQL binaries here; install the package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="qaicl-pg-", dir="/tmp"))
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        who = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody", "nogroup")
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", data, "-U", "qaicl", "-A", "trust", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
        **who,
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [server, "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=log,
            stderr=log,
            cwd=folder,
            **who,
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(f"host={folder} user=qaicl dbname=postgres").close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "PostgreSQL does not come up"
                time.sleep(0.05)
        yield f"postgresql://qaicl@/{{}}?host={folder}"
    finally:
        # At once, without a checkpoint: the cluster is thrown away.
        process.send_signal(signal.SIGQUIT)
        process.wait(30)
        shutil.rmtree(folder)


def _psycopg(url: str) -> URL:
    parsed = make_url(url)
    return parsed if parsed.get_backend_name() == "sqlite" else parsed.set(drivername="postgresql+psycopg")


def _create(postgres: str, template: str) -> str:
    name = f"oracle_{uuid.uuid4().hex[:8]}"
    host = make_url(postgres.format("postgres")).query["host"]
    with psycopg.connect(f"host={host} user=qaicl dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return postgres.format(name)


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> str:
    """Name of a database at the newest schema; nobody connects to it again."""
    url = _create(postgres, "template0")
    database.connect(_psycopg(url)).dispose()
    return str(make_url(url).database)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file at the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "oracle.sqlite"
    database.connect(make_url(f"sqlite:///{path}")).dispose()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases, without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.sqlite"
    return _create(request.getfixturevalue("postgres"), "template0")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases, one after the other, at the newest schema."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "oracle.sqlite")
        return f"sqlite:///{tmp_path}/oracle.sqlite"
    return _create(request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres"))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database.connect(_psycopg(database_url))) as one:
        yield one


@pytest.fixture
def local_store(tmp_path: Path, migrated_sqlite: Path) -> Iterator[Store]:
    """SQLite only, for what does not depend on the database."""
    shutil.copy(migrated_sqlite, tmp_path / "local.sqlite")
    with Store(database.connect(make_url(f"sqlite:///{tmp_path}/local.sqlite"))) as one:
        yield one
