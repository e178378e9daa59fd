"""Renders a conversation as the model was trained to read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox

from qaicl.errors import DamagedFileError, PromptError
from qaicl.inference.config import read_json
from qaicl.inference.engine import ChatMessage


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _token(value: Any) -> str:
    """A special token as ``tokenizer_config.json`` writes it: a string or an object."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


class ChatTemplate:
    """The Jinja template of a model's directory, run in Jinja's sandbox with the names transformers gives it.

    A model without one (a base model) gets the plain texts, one a paragraph.

    Raises:
        DamagedFileError: the template is not valid Jinja.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer_config.json"
        settings = read_json(path) if path.exists() else {}
        self.end_token = _token(settings.get("eos_token"))
        self._names = {"bos_token": _token(settings.get("bos_token")), "eos_token": self.end_token}
        source = self._source(directory, settings.get("chat_template"))
        self._template: jinja2.Template | None = None
        if not source:
            return
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise DamagedFileError(
                f"cannot use the chat template of {directory}", why=str(error), fix="run: qaicl model pull"
            ) from error

    @staticmethod
    def _source(directory: Path, setting: Any) -> str:
        separate = directory / "chat_template.jinja"
        if separate.exists():
            return separate.read_text()
        if isinstance(setting, list):
            return next((str(entry["template"]) for entry in setting if entry.get("name") == "default"), "")
        return setting or ""

    @property
    def plain(self) -> bool:
        """Whether there is no template."""
        return self._template is None

    def render(self, messages: Sequence[ChatMessage]) -> str:
        """The text up to where the assistant's answer begins.

        Raises:
            PromptError: the template does not take this conversation (roles, their order).
        """
        if self._template is None:
            return "\n\n".join(message.content for message in messages)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=True, tools=None, **self._names)
        except (jinja2.TemplateError, TypeError) as error:
            raise PromptError(
                "the model's chat template refuses this conversation", why=str(error), fix="change roles or their order"
            ) from error
