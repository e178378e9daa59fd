"""Text to padded token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from qaicl.errors import ModelMissingError

MAX_TOKENS = 64


class Encoding:
    """A model directory's tokenizer, cut at `MAX_TOKENS`."""

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelMissingError(
                f"no tokenizer in {directory}",
                why="tokenizer.json is not there",
                fix="run: qaicl model pull all-minilm-l6-v2",
            )
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64, of shape (rows, longest row)."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids, mask
