"""Models: the catalogue of those that exist, and the store of those that are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaicl.models.progress import Progress, silent

if TYPE_CHECKING:
    from pathlib import Path

    from qaicl.models.catalogue import Catalogue
    from qaicl.models.manifest import Manifest
    from qaicl.models.sources import Plan
    from qaicl.models.store import Store
    from qaicl.settings import Settings


def open_catalogue(settings: Settings) -> Catalogue:
    """The built-in models and those of ``<config>/models.toml``.

    Raises:
        CatalogueError: an entry does not fit.
    """
    from qaicl.models import catalogue

    return catalogue.load(settings.paths.config / "models.toml")


def open_store(settings: Settings) -> Store:
    """The store that these settings name; it need not exist yet."""
    from qaicl.models.store import Store

    return Store(settings.paths.models(settings.values.models))


def pull(settings: Settings, name: str, progress: Progress = silent) -> Manifest:
    """Make sure that a model of the catalogue is in the store, whole and verified.

    Raises:
        UnknownModelError: the catalogue has no such model.
        ModelError: see :meth:`qaicl.models.store.Store.pull`.
    """
    from qaicl.models.download import Downloader, client
    from qaicl.models.sources import open_source
    from qaicl.models.token import hub_token

    model = open_catalogue(settings)[name]
    with client() as http:
        source = open_source(
            model, hub=settings.values.models.hub, token=hub_token(settings), downloader=Downloader(http, progress)
        )
        return open_store(settings).pull(model, source, progress)


def plan(settings: Settings, name: str) -> Plan:
    """What :func:`pull` would fetch; asks the source and changes nothing.

    Raises:
        UnknownModelError: the catalogue has no such model.
        DownloadError: the source does not have it or does not answer.
    """
    from qaicl.models.download import Downloader, client
    from qaicl.models.listing import is_current
    from qaicl.models.sources import Plan, open_source
    from qaicl.models.token import hub_token

    model, store = open_catalogue(settings)[name], open_store(settings)
    if is_current(model, store):
        return Plan(name, True, model.source, [], 0)
    with client() as http:
        source = open_source(
            model, hub=settings.values.models.hub, token=hub_token(settings), downloader=Downloader(http)
        )
        return Plan(name, False, model.source, source.plan(store.partial(name)), model.installed_size)


def ready(settings: Settings, name: str) -> Path:
    """The directory of a model that is here.

    Raises:
        UnknownModelError: the catalogue has no such model and none of that name is here.
        ModelMissingError: it has to be pulled first.
        DamagedFileError: a file of it is missing or cut off.
    """
    store = open_store(settings)
    if not store.path(name).is_dir():
        open_catalogue(settings)[name]
    return store.open(name)
