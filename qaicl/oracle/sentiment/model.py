"""Texts to class probabilities, by the shipped adapter or by a classifier from the model store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qaicl.errors import DamagedFileError, ModelMissingError, UnsupportedModelError
from qaicl.oracle.sentiment.adapter import NAME, SHIPPED, base_digest, load
from qaicl.oracle.sentiment.dataset import LABELS
from qaicl.oracle.sentiment.network import Classifier, load_scoring_encoder, merge
from qaicl.oracle.sentiment.scoring import Probabilities
from qaicl.oracle.sentiment.tokens import Encoding
from qaicl.oracle.sentiment.training import evaluate


class AdapterModel:
    """The base encoder with an adapter merged into it."""

    def __init__(self, base: Path, adapter: Path = SHIPPED) -> None:
        tensors, card = load(adapter, base)
        encoder, width = load_scoring_encoder(base)
        self._model = Classifier(encoder, width, len(LABELS))
        merge(self._model, tensors, card.alpha / card.rank)
        self._encoding = Encoding(base)
        self._temperature, self._bias = card.temperature, torch.tensor(card.bias, dtype=torch.float64)
        self.name = NAME
        self.version = card.run

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of clean texts."""
        if not texts:
            return np.zeros((0, len(LABELS)))
        logits = evaluate(self._model, self._encoding.ids(texts))
        return (logits.double() / self._temperature + self._bias).softmax(-1).numpy()


class HubModel:
    """A sequence classifier from the model store, such as FinBERT: three classes named like `LABELS`."""

    def __init__(self, directory: Path) -> None:
        try:
            config = json.loads((directory / "config.json").read_bytes())
        except OSError as error:
            raise ModelMissingError(
                f"no model in {directory}", why=error.strerror or str(error), fix="run: qaicl model pull"
            ) from error
        except ValueError as error:
            raise DamagedFileError(
                f"{directory / 'config.json'} is not JSON", why=str(error), fix="pull the model again"
            ) from error
        names = {str(name).casefold(): int(number) for number, name in config.get("id2label", {}).items()}
        if set(names) != set(LABELS):
            raise UnsupportedModelError(
                f"the model in {directory} is not a sentiment model",
                why=f"its labels are {', '.join(sorted(names)) or 'missing'}",
                fix=f"its config.json must name the labels {', '.join(LABELS)}",
            )
        self._columns = [names[label] for label in LABELS]
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
            self._model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
                str(directory), local_files_only=True, dtype=torch.float32
            ).eval()
        except (OSError, ValueError) as error:
            raise UnsupportedModelError(
                f"cannot load a classifier from {directory}",
                why=str(error).splitlines()[0],
                fix="pull the model again",
            ) from error
        self.name = directory.name
        self.version = base_digest(directory)

    def probabilities(self, texts: Sequence[str]) -> Probabilities:
        """Class probabilities of clean texts."""
        rows = [np.zeros((0, len(LABELS)))]
        with torch.inference_mode():
            for start in range(0, len(texts), 32):
                batch = self._tokenizer(
                    list(texts[start : start + 32]), padding=True, truncation=True, max_length=128, return_tensors="pt"
                )
                rows.append(self._model(**batch).logits.double().softmax(-1)[:, self._columns].numpy())
        return np.concatenate(rows)
