"""Accuracy and macro-F1 of the sentiment model on a labelled file, and texts scored a second.

    python bench/sentiment.py --data FILE

FILE is a CSV with the columns text,label (0, 1, 2 or negative, positive, neutral), JSON Lines with those fields, or
Financial PhraseBank's ``text@label`` lines. Without --data the project's held-out headlines are used, whose topics
(mining, NFTs and games, stablecoins, governance) the training headlines do not have.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch
from sklearn.metrics import classification_report, confusion_matrix

from qaicl import settings
from qaicl.errors import QaiclError
from qaicl.models import ready
from qaicl.oracle.sentiment import dataset
from qaicl.oracle.sentiment.adapter import SHIPPED
from qaicl.oracle.sentiment.model import AdapterModel
from qaicl.oracle.sentiment.scoring import SentimentModel, score
from qaicl.oracle.sentiment.service import BASE, model_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="labelled file")
    parser.add_argument("--adapter", type=Path, help="an adapter file instead of the configured model")
    parser.add_argument("--base", type=Path, help="the base encoder's directory instead of the model store's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        loaded = settings.load()
        model: SentimentModel
        if arguments.adapter or arguments.base:
            model = AdapterModel(arguments.base or ready(loaded, BASE), arguments.adapter or SHIPPED)
        else:
            model = model_of(loaded).model  # itself, not its kept answers
        examples = dataset.read(arguments.data) if arguments.data else dataset.headlines("heldout")
        started = time.perf_counter()
        scored = score(model, [example.text for example in examples])
        seconds = time.perf_counter() - started
    except QaiclError as error:
        sys.exit(f"error: {error}")
    truth, said = [example.label for example in examples], [one.label for one in scored]
    report = classification_report(truth, said, labels=dataset.LABELS, output_dict=True, zero_division=0)
    right = [one == other for one, other in zip(truth, said, strict=True)]
    print(
        json.dumps(
            {
                "data": str(arguments.data or "held-out headlines"),
                "texts": len(examples),
                "accuracy": round(sum(right) / len(right), 4),
                "macro_f1": round(report["macro avg"]["f1-score"], 4),
                "f1": {label: round(report[label]["f1-score"], 4) for label in dataset.LABELS},
                "confusion": confusion_matrix(truth, said, labels=dataset.LABELS).tolist(),
                "calibration_error": round(calibration_error([one.confidence for one in scored], right), 4),
                "texts_per_second": round(len(examples) / seconds, 1),
                "model": model.name,
                "model_version": model.version,
                "machine": f"{platform.machine()}, {arguments.threads} thread(s), torch {torch.__version__}",
            },
            indent=2,
        )
    )


def calibration_error(confidences: list[float], right: list[bool], bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over ten equal bins, by bin size."""
    total = 0.0
    for number in range(bins):
        mine = [i for i, value in enumerate(confidences) if min(int(value * bins), bins - 1) == number]
        if mine:
            total += abs(sum(confidences[i] for i in mine) - sum(right[i] for i in mine))
    return total / len(confidences)


if __name__ == "__main__":
    main()
