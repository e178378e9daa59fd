"""Opening the oracle's database: SQLite in the data directory, or PostgreSQL by URL; always at the newest schema."""

from __future__ import annotations

import fcntl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from qaicl.errors import OracleStoreError, SettingsError
from qaicl.settings import OracleSettings, Paths

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x71616963
"""PostgreSQL advisory lock held while migrating: the letters ``qaic``."""
BUSY = 30.0
"""Seconds that a writer waits for another one in SQLite."""


def database_url(settings: OracleSettings, paths: Paths, context: str) -> URL:
    """Where the oracle of this context keeps its data.

    Raises:
        SettingsError: the URL is none, names another database than PostgreSQL or SQLite, or carries a password.
    """
    if not settings.database_url:
        return URL.create("sqlite", database=str(paths.data / "oracle" / f"{context}.sqlite"))
    try:
        url = make_url(settings.database_url)
    except ArgumentError as error:
        raise SettingsError(
            "oracle.database_url is not a database URL",
            why="its form is unknown",
            fix="write postgresql://user@host/name or sqlite:////path",
        ) from error
    if url.password is not None:
        raise SettingsError(
            "oracle.database_url carries a password",
            why="settings are shown and logged",
            fix="take it out and set oracle.database_password_file",
        )
    if url.get_backend_name() == "sqlite":
        return url
    if url.get_backend_name() != "postgresql":
        raise SettingsError(f"oracle.database_url names {url.get_backend_name()}", fix="use postgresql or sqlite")
    url = url.set(drivername="postgresql+psycopg")
    if settings.database_password_file:
        url = url.set(password=_secret(Path(settings.database_password_file).expanduser()))
    return url


def _secret(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise SettingsError(
                f"others may read {path}", why="it holds the database password", fix=f"run: chmod 600 {path}"
            )
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}", why=error.strerror or str(error), fix="set oracle.database_password_file"
        ) from error


def connect(url: URL) -> Engine:
    """An engine for the database, its schema brought up to date.

    Raises:
        OracleStoreError: it does not answer, is damaged, full or read-only, or is newer than this program.
    """
    if url.get_backend_name() == "sqlite":
        engine = _sqlite(url)
    else:
        engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    try:
        with translated(url):
            migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _sqlite(url: URL) -> Engine:
    if url.database:
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OracleStoreError(f"cannot create {folder}", why=error.strerror or str(error)) from error
    engine = create_engine(url, connect_args={"timeout": BUSY, "check_same_thread": False})
    prepare_sqlite(engine)
    return engine


def prepare_sqlite(engine: Engine) -> None:
    """Make SQLite's transactions explicit: the driver's own would begin too late to be atomic."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A writer takes the lock at once; one that reads first could not upgrade beside another writer.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn the database's errors into one of ours; the password never appears."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(error.orig).strip().splitlines()[0] if isinstance(error, DBAPIError) and error.orig else str(error)
        where = url.database if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
        raise OracleStoreError(f"the oracle's database {where} failed", why=cause, fix=_fix(cause)) from error


def _fix(cause: str) -> str:
    hints = {
        "disk is full": "free disk space; nothing stored so far is lost",
        "readonly": "make the file and its directory writable",
        "not a database": "move the file away; what is lost can be collected again",
        "malformed": "move the file away; what is lost can be collected again",
        "locked": "another process writes for a long time; try again",
        "password": "check oracle.database_password_file",
        "connection": "check that PostgreSQL runs and oracle.database_url",
    }
    return next((fix for word, fix in hints.items() if word in cause.casefold()), "check oracle.database_url")


def newest_revision() -> str:
    """The highest migration number; revision ids are the numbers that the files begin with."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision, one process at a time; does nothing where it is."""
    newest = newest_revision()
    if _current(engine, newest) == newest:
        return
    with _lock(engine), engine.execution_options(writes=True).begin() as connection:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _current(engine: Engine, newest: str) -> str:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        current = str(connection.execute(text("SELECT max(version_num) FROM alembic_version")).scalar() or "")
    if current > newest:
        raise OracleStoreError(
            f"the oracle's database has schema {current}",
            why=f"this qaicl knows schemas up to {newest}",
            fix="update qaicl",
        )
    return current


@contextmanager
def _lock(engine: Engine) -> Iterator[None]:
    if engine.url.get_backend_name() == "sqlite":
        if not engine.url.database:
            yield
            return
        with Path(engine.url.database + ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
