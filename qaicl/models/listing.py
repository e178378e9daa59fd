"""The catalogue beside what is here."""

from __future__ import annotations

from typing import Literal

import msgspec

from qaicl.errors import DamagedFileError, ModelMissingError
from qaicl.models.catalogue import Catalogue, Model
from qaicl.models.store import Store

State = Literal["here", "missing", "damaged", "outdated"]


class Entry(msgspec.Struct, frozen=True):
    """A row of ``model list``; ``size`` is bytes in the store, None where only the source knows.

    ``outdated``: it is here, but the catalogue entry has changed since the pull.
    """

    name: str
    state: State
    size: int | None
    family: str
    licence: str
    source: str
    description: str


def listing(catalogue: Catalogue, store: Store) -> list[Entry]:
    """Every model of the catalogue, then those that are here though the catalogue no longer has them."""
    rows = []
    for name, model in catalogue.items():
        state = _state(model, store)
        size = store.manifest(name).size if state in ("here", "outdated") else model.installed_size
        rows.append(Entry(name, state, size, model.family, model.licence, model.source, model.description))
    for name in store.list():
        if name in catalogue:
            continue
        try:
            found = store.manifest(name)
            store.open(name)
            rows.append(Entry(name, "here", found.size, found.family, found.licence, found.source, ""))
        except (ModelMissingError, DamagedFileError) as error:
            rows.append(Entry(name, "damaged", None, "", "", "", error.why))
    return rows


def is_current(model: Model, store: Store) -> bool:
    """Whether the model is here as the entry asks for it; content is not read again."""
    return _state(model, store) == "here"


def _state(model: Model, store: Store) -> State:
    try:
        store.open(model.name)
    except ModelMissingError:
        return "missing"
    except DamagedFileError:
        return "damaged"
    return "here" if store.manifest(model.name).entry == model.fingerprint else "outdated"
