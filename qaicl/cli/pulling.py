"""Getting a model before it is needed, with progress on a terminal."""

from __future__ import annotations

from qaicl.settings import Settings


def ensure_model(settings: Settings, name: str) -> None:
    """Pull a model that is not in the store; ``echo`` needs none."""
    if name == "echo":
        return
    from qaicl.errors import ModelMissingError
    from qaicl.models.store import Store

    store = Store(settings.paths.models(settings.values.models))
    try:
        store.open(name)
    except ModelMissingError:
        from qaicl.cli.model import pull_model

        pull_model(settings, name)
