"""Text to token ids and back, by the model's own ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from qaicl.errors import DamagedFileError, ModelMissingError, PromptError
from qaicl.inference.chat import ChatTemplate
from qaicl.inference.config import ModelConfig, read_json, token_ids
from qaicl.inference.engine import ChatMessage, Sampling, TextStream
from qaicl.inference.text import GeneratedText


class ModelTokenizer:
    """Encodes conversations and decodes answers of one model.

    Raises:
        ModelMissingError: there is no ``tokenizer.json``.
        DamagedFileError: a file of the tokenizer cannot be read.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        path = directory / "tokenizer.json"
        if not path.exists():
            raise ModelMissingError(f"{path} is missing", fix="run: qaicl model pull")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for every malformed file
            raise DamagedFileError(f"cannot read {path}", why=str(error), fix="run: qaicl model pull") from error
        self._template = ChatTemplate(directory)
        self._context_length = config.context_length
        self._vocabulary = config.vocabulary
        self.end_tokens = self._end_tokens(directory, config)

    def _end_tokens(self, directory: Path, config: ModelConfig) -> frozenset[int]:
        """Whatever any of the model's files calls an end: generation config, config, tokenizer."""
        ends = set(config.end_tokens)
        path = directory / "generation_config.json"
        if path.exists():
            ends.update(token_ids(read_json(path).get("eos_token_id")))
        named = self._tokenizer.token_to_id(self._template.end_token) if self._template.end_token else None
        if named is not None:
            ends.add(named)
        return frozenset(ends)

    def encode(self, messages: Sequence[ChatMessage], max_tokens: int) -> list[int]:
        """Token ids of a conversation, ready for the answer.

        Raises:
            PromptError: empty, refused by the template, or with ``max_tokens`` longer than the context.
        """
        if not any(message.content.strip() for message in messages):
            raise PromptError("the prompt is empty", fix="give a question")
        text = self._template.render(messages)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError("the prompt is not valid text", why=str(error), fix="give it as UTF-8") from error
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=self._template.plain).ids
        if len(ids) + max_tokens > self._context_length:
            raise PromptError(
                "the prompt is too long",
                why=f"{len(ids)} tokens and {max_tokens} to generate are more than the model's {self._context_length}",
                fix="shorten the prompt or ask for fewer tokens",
            )
        if not ids or max(ids) >= self._vocabulary:
            raise PromptError("the prompt cannot be encoded", why="the tokenizer does not fit the model")
        return ids

    def text(self, sampling: Sampling) -> TextStream:
        """A fresh stream for one request."""
        return GeneratedText(_Stream(self._tokenizer), self.end_tokens, sampling)


class _Stream:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._stream.step(self._tokenizer, token) or ""
        self._given += len(text)
        return text

    def flush(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True)[self._given :])
