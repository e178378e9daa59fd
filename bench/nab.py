"""Scores the anomaly detector on the Numenta Anomaly Benchmark with NAB's own weighted score.

    python bench/nab.py --data DIR --windows FILE [--profiles FILE]

``DIR`` holds series ``<category>/<name>.csv`` (timestamp,value); ``FILE`` maps each to its labelled windows. A series
that the windows file does not name is left out; one that it names and that is missing is an error.

The score, as in Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms" (2015), and NAB 1.1's sweeper:

* the first 15 % of a series (at most 750 rows) are probation: nothing there counts;
* a window's best detection scores ``tpWeight`` times a sigmoid that falls from 1 at the window's left edge to 0 at
  its right; a window without a detection costs ``fnWeight``;
* a detection outside costs up to ``fpWeight``, less just behind a window;
* one threshold for the whole corpus, the best for each profile;
* 0 is a detector that says nothing, 100 one that detects each window at its first row.

The detector sees each series one value at a time, without labels, with one set of parameters.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from qaicl.oracle.anomalies.stream import METHOD, StreamDetector

Floats = NDArray[np.float64]
PROFILES: dict[str, dict[str, float]] = {
    "standard": {"tpWeight": 1.0, "fnWeight": 1.0, "fpWeight": 0.11},
    "reward_low_FP_rate": {"tpWeight": 1.0, "fnWeight": 1.0, "fpWeight": 0.22},
    "reward_low_FN_rate": {"tpWeight": 1.0, "fnWeight": 2.0, "fpWeight": 0.11},
}
"""NAB's application profiles; a profiles file replaces them."""


@dataclass(frozen=True)
class Series:
    """One file of the corpus with its labelled windows as (first, last) row, both inclusive."""

    name: str
    times: list[datetime]
    values: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows at the start that do not count."""
        return min(math.floor(0.15 * len(self.values)), 750)


def read_corpus(data: Path, windows: Path) -> list[Series]:
    """Every series that the windows file names."""
    corpus = []
    for name, limits in sorted(json.loads(windows.read_text(encoding="utf-8")).items()):
        with (data / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        times = [datetime.fromisoformat(row["timestamp"]) for row in rows]
        row_of = {moment: i for i, moment in reversed(list(enumerate(times)))}
        found = sorted((row_of[datetime.fromisoformat(a)], row_of[datetime.fromisoformat(b)]) for a, b in limits)
        corpus.append(Series(name, times, np.array([float(row["value"]) for row in rows]), tuple(found)))
    return corpus


def sigmoid(position: Floats) -> Floats:
    """NAB's scaled sigmoid: +0.987 at a window's left edge (-1), 0 at its right (0), towards -1 behind it."""
    scaled: Floats = np.where(position >= 3, -1.0, 2 / (1 + np.exp(5 * np.minimum(position, 3))) - 1)
    return scaled


def steps(series: Series, scores: Floats, weights: dict[str, float]) -> tuple[Floats, Floats]:
    """How the series' score changes as the threshold falls.

    Returns:
        Thresholds, and what detecting at each of them adds to the score of detecting nothing.
    """
    rows = np.arange(len(scores))
    outside = rows >= series.probation
    behind = np.full(len(scores), 3.0)
    for first, last in series.windows:
        outside[first : last + 1] = False
        # A window's length less one is the unit of distance behind it.
        behind[last + 1 :] = (rows[last + 1 :] - last) / max(last - first, 1)
    thresholds = [scores[outside]]
    changes = [sigmoid(behind)[outside] * weights["fpWeight"]]
    top = float(sigmoid(np.array([-1.0]))[0])
    for first, last in series.windows:
        inside = np.arange(max(first, series.probation), last + 1)
        worth = sigmoid(-(last - inside + 1) / (last - first + 1)) * weights["tpWeight"] / top
        best = -weights["fnWeight"]
        order = np.lexsort((inside, -scores[inside]))
        at, gain = [], []
        for i in order:
            if worth[i] > best:
                at.append(scores[inside[i]])
                gain.append(worth[i] - best)
                best = float(worth[i])
        thresholds.append(np.array(at))
        changes.append(np.array(gain))
    return np.concatenate(thresholds), np.concatenate(changes)


def corpus_score(corpus: list[Series], scores: list[Floats], weights: dict[str, float]) -> tuple[float, float]:
    """The normalised score at the corpus's best threshold, and that threshold (infinite: better to say nothing)."""
    parts = [steps(series, given, weights) for series, given in zip(corpus, scores, strict=True)]
    thresholds = np.concatenate([part[0] for part in parts])
    changes = np.concatenate([part[1] for part in parts])
    order = np.argsort(-thresholds, kind="stable")
    thresholds, gains = thresholds[order], np.cumsum(changes[order])
    complete = np.append(thresholds[1:] != thresholds[:-1], True)
    thresholds, gains = thresholds[complete], gains[complete]
    best = int(np.argmax(gains))
    windows = sum(len(series.windows) for series in corpus)
    if gains[best] <= 0 or not windows:
        return 0.0, math.inf
    perfect = windows * (weights["tpWeight"] + weights["fnWeight"])
    return float(100 * gains[best] / perfect), float(thresholds[best])


def detect(series: Series) -> Floats:
    """The detector's score for each row, given one row at a time."""
    detector = StreamDetector()
    return np.array(
        [detector.update(moment, float(value)).onset for moment, value in zip(series.times, series.values, strict=True)]
    )


def perfect(series: Series) -> Floats:
    """What a detector would say that knows the labels: the published 100."""
    scores = np.zeros(len(series.values))
    scores[[first for first, _ in series.windows]] = 1.0
    return scores


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--profiles", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--files", action="store_true", help="also print alarms and hits for each series")
    options = parser.parse_args()
    profiles = PROFILES
    if options.profiles:
        loaded = json.loads(options.profiles.read_text(encoding="utf-8"))
        profiles = {name: entry["CostMatrix"] for name, entry in loaded.items()}
    corpus = read_corpus(options.data, options.windows)
    rows = sum(len(series.values) for series in corpus)
    started = time.perf_counter()
    if options.jobs > 1:
        with Pool(options.jobs) as pool:
            scores = pool.map(detect, corpus, chunksize=1)
    else:
        scores = [detect(series) for series in corpus]
    seconds = time.perf_counter() - started
    windows = sum(len(series.windows) for series in corpus)
    print(f"NAB: {len(corpus)} series, {rows} rows, {windows} windows; detector {METHOD}")
    print(f"{'profile':20s} {'score':>7s} {'threshold':>10s} {'null':>6s} {'perfect':>8s}")
    standard = math.inf
    for name, weights in profiles.items():
        score, threshold = corpus_score(corpus, scores, weights)
        standard = threshold if name == "standard" else standard
        null, _ = corpus_score(corpus, [np.full(len(s.values), 0.5) for s in corpus], weights)
        full, _ = corpus_score(corpus, [perfect(series) for series in corpus], weights)
        print(f"{name:20s} {score:7.2f} {threshold:10.4f} {null:6.1f} {full:8.1f}")
    if options.files:
        for series, given in zip(corpus, scores, strict=True):
            alarms = np.flatnonzero(given >= standard)
            alarms = alarms[alarms >= series.probation]
            hits = sum(bool(((alarms >= first) & (alarms <= last)).any()) for first, last in series.windows)
            print(f"  {series.name:62s} alarms {len(alarms):3d}  windows hit {hits} of {len(series.windows)}")
    print(f"{rows / seconds:.0f} rows/s, {seconds:.1f} s, {options.jobs} process(es), {platform.machine()}")
    print("published, standard profile, whole NAB: HTM 70, KNN-CAD 58.0, Random Cut Forest 51.7, random 11")


if __name__ == "__main__":
    main()
