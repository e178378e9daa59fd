"""Playbooks: YAML that says, as steps over operations, what a host shall be.

Values are Jinja2 templates. A value that is one ``{{ expression }}`` and nothing else keeps the expression's type.
A name that does not exist is an error, never an empty text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import jinja2
import jsonschema
import msgspec
import yaml

import qaicl
from qaicl.errors import PlaybookError
from qaicl.provision.inventory import Host
from qaicl.provision.operations import OPERATIONS
from qaicl.provision.operations.base import Operation
from qaicl.provision.secrets import redis_word

_WRONG = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What a template raises that names what is not there, or does with a value what cannot be done."""

_SEE = "correct it in the playbook; docs/provision.md says what there is"

_EXPRESSION = re.compile(r"\A\{\{((?:(?!\}\}).)*)\}\}\Z", re.DOTALL)


def shipped() -> Path:
    """The directory of the playbooks that come with qaicl."""
    package = Path(qaicl.__file__).parent
    installed = package / "playbooks"
    return installed if installed.is_dir() else package.parent / "playbooks"


@dataclass(frozen=True)
class Step:
    """One step for one host, rendered."""

    id: str
    playbook: str
    name: str
    why: str
    operation: Operation
    arguments: msgspec.Struct
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Skipped:
    """A step that does not apply to the host."""

    id: str
    playbook: str
    name: str
    reason: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """An expectation that is looked at when all hosts are done."""

    name: str
    kind: str
    fix: str
    limit: float


class Playbooks:
    """The playbooks of one directory.

    Args:
        directory: holds ``*.yaml``, ``schema.json`` and ``templates/``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(directory / "templates"),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
        self._environment.filters["redis_word"] = redis_word
        self._environment.filters["sha256"] = lambda text: hashlib.sha256(str(text).encode()).hexdigest()

    @cached_property
    def _validator(self) -> jsonschema.Draft202012Validator:
        path = shipped() / "schema.json"
        return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))

    def read(self, name: str) -> dict[str, Any]:
        """One playbook as it stands.

        Raises:
            PlaybookError: it is missing, not YAML, or does not fit the schema.
        """
        path = self.directory / f"{name}.yaml"
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            there = ", ".join(sorted(found.stem for found in self.directory.glob("*.yaml")))
            raise PlaybookError(
                f"there is no playbook '{name}'",
                why=f"{self.directory} has {there}",
                fix="correct 'playbook' in the inventory, an include, or --playbooks",
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PlaybookError(
                f"{path} is not YAML", why=" ".join(str(error).split()), fix="correct it there"
            ) from error
        for problem in self._validator.iter_errors(data):
            where = "/".join(str(part) for part in problem.absolute_path)
            raise PlaybookError(f"{path} is not a playbook", why=f"{where}: {problem.message}", fix=_SEE)
        return cast(dict[str, Any], data)

    def _books(self, name: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
        if name in above:
            raise PlaybookError(
                f"playbook '{name}' includes itself", why=" → ".join((*above, name)), fix="take one of its includes out"
            )
        data = self.read(name)
        yield name, data
        for included in data.get("include", []):
            yield from self._books(included, (*above, name))

    def checks(self, name: str) -> list[Check]:
        """The checks of a playbook and of those that it includes."""
        return [
            Check(entry["name"], entry["check"], entry["fix"], float(entry.get("limit", 0)))
            for _, data in self._books(name)
            for entry in data.get("checks", [])
        ]

    def steps(
        self, name: str, host: Host, variables: Mapping[str, Any], *, operation: str = ""
    ) -> list[Step | Skipped]:
        """What a playbook and those that it includes mean for a host, in order.

        Args:
            operation: only steps of this one; the others are not looked at.

        Raises:
            PlaybookError: a template, an argument or a playbook is wrong.
        """
        found: list[Step | Skipped] = []
        for book, data in self._books(name):
            for entry in data.get("steps", []):
                if operation and operation not in entry:
                    continue
                found += self._expand(book, data, entry, host, variables)
        return list(_distinct(found))

    def _expand(
        self, book: str, data: dict[str, Any], entry: dict[str, Any], host: Host, variables: Mapping[str, Any]
    ) -> list[Step | Skipped]:
        slug = re.sub(r"[^a-z0-9]+", "-", entry["name"].lower()).strip("-")
        step_id = f"{book}/{slug}"
        tags = (book, *data.get("tags", []), *entry.get("tags", []))
        roles = entry.get("roles", data.get("roles"))
        if roles is not None and not any(host.has(role) for role in roles):
            return [Skipped(step_id, book, entry["name"], f"not for a host that is {', '.join(host.roles)}", tags)]
        for asked in (data, entry):
            condition = asked.get("when")
            if condition is not None and not self._evaluate(condition, variables, step_id):
                reason = asked.get("otherwise") or f"not so: {condition}"
                return [Skipped(step_id, book, entry["name"], reason, tags)]
        (operation,) = [OPERATIONS[key] for key in entry if key in OPERATIONS]
        items = self._render(entry["each"], variables, step_id) if "each" in entry else [None]
        if not isinstance(items, list | tuple):
            raise PlaybookError(f"the step {step_id} is wrong", why=f"each: {items!r} is not a list", fix=_SEE)
        steps: list[Step | Skipped] = []
        for item in items:
            scope = variables if item is None else {**variables, "item": item}
            label = "" if item is None else f":{_label(item)}"
            arguments = self._arguments(operation, entry[operation.name], scope, step_id)
            title = entry["name"] + (f" ({_label(item)})" if label else "")
            steps.append(Step(step_id + label, book, title, entry.get("why", ""), operation, arguments, tags))
        return steps

    def _arguments(
        self, operation: Operation, raw: dict[str, Any], variables: Mapping[str, Any], step_id: str
    ) -> msgspec.Struct:
        values = self._render(raw, variables, step_id)
        if name := values.get("template"):
            try:
                values["content"] = self._environment.get_template(name).render(variables)
            except _WRONG as error:
                raise PlaybookError(
                    f"the template {name} of step {step_id} is wrong", why=f"{type(error).__name__}: {error}", fix=_SEE
                ) from error
        try:
            return msgspec.convert(values, operation.arguments, strict=True)
        except msgspec.ValidationError as error:
            raise PlaybookError(f"the step {step_id} is wrong", why=f"{operation.name}: {error}", fix=_SEE) from error

    def _evaluate(self, expression: str, variables: Mapping[str, Any], step_id: str) -> Any:
        try:
            value = self._environment.compile_expression(expression, undefined_to_none=False)(variables)
            if isinstance(value, jinja2.Undefined):
                str(value)  # raises with the missing name
            return value
        except _WRONG as error:
            raise PlaybookError(
                f"the step {step_id} is wrong", why=f"in '{expression.strip()}': {error}", fix=_SEE
            ) from error

    def _render(self, value: Any, variables: Mapping[str, Any], step_id: str) -> Any:
        if isinstance(value, dict):
            return {key: self._render(entry, variables, step_id) for key, entry in value.items()}
        if isinstance(value, list):
            return [self._render(entry, variables, step_id) for entry in value]
        if not isinstance(value, str) or "{" not in value:
            return value
        if match := _EXPRESSION.match(value.strip()):
            return self._evaluate(match.group(1), variables, step_id)
        try:
            return self._environment.from_string(value).render(variables)
        except _WRONG as error:
            raise PlaybookError(
                f"the step {step_id} is wrong", why=f"in '{value[:60].strip()}': {error}", fix=_SEE
            ) from error


def _distinct(steps: Iterable[Step | Skipped]) -> Iterator[Step | Skipped]:
    """Plans and journals know a step by its id, so a second one of the same name gets another."""
    seen: dict[str, int] = {}
    for step in steps:
        seen[step.id] = seen.get(step.id, 0) + 1
        yield step if seen[step.id] == 1 else replace(step, id=f"{step.id}#{seen[step.id]}")


def _label(item: Any) -> str:
    named = item.get("name") if isinstance(item, Mapping) else getattr(item, "name", None)
    return str(item if named is None else named)


def selected(step: Step | Skipped, tags: tuple[str, ...]) -> bool:
    """Whether ``--tags`` chooses a step; no tag chooses all."""
    return not tags or bool(set(tags) & set(step.tags))
