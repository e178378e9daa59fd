"""Real models for every test: pulled once a machine, shared by all runs and all workers."""

import os
import signal
from pathlib import Path

import pytest

from qaicl.errors import DamagedFileError, ModelMissingError
from qaicl.models import open_catalogue, pull
from qaicl.models.store import Store
from qaicl.settings import ModelSettings, Paths, Settings, Values

# A shell's background job ignores the interrupt, and everything that it starts inherits that: the programs that these
# tests interrupt would not notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared_model(name: str) -> Path:
    """The model's directory in the cache below XDG_CACHE_HOME; the store's lock lets one process pull it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qaicl-test-models"
    settings = Settings(
        Values(models=ModelSettings(directory=str(home))), Paths(home / "none", home / "none", home / "none"), "test"
    )
    store = Store(home)
    try:
        if store.manifest(name).entry == open_catalogue(settings)[name].fingerprint:
            return store.open(name)
    except (ModelMissingError, DamagedFileError):
        pass
    pull(settings, name)
    return store.open(name)


@pytest.fixture(scope="session")
def smollm2_directory() -> Path:
    """SmolLM2-135M-Instruct as qaicl stores it; read only."""
    return _shared_model("smollm2-135m")


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    """all-MiniLM-L6-v2 as qaicl stores it; read only."""
    return _shared_model("all-minilm-l6-v2")
