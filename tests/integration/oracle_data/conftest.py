"""Local services and a throw-away PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import shutil
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
from sqlalchemy import make_url

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
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """URL of a new, empty database."""
    name = f"oracle_{uuid.uuid4().hex[:8]}"
    host = make_url(postgres.format("postgres")).query["host"]
    with psycopg.connect(f"host={host} user=qaicl dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres.format(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases, one after the other."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/oracle.sqlite"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    url = make_url(database_url)
    with Store(
        database.connect(url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg"))
    ) as one:
        yield one


@pytest.fixture
def local_store(tmp_path: Path) -> Iterator[Store]:
    """SQLite only, for what does not depend on the database."""
    with Store(database.connect(make_url(f"sqlite:///{tmp_path}/local.sqlite"))) as one:
        yield one
