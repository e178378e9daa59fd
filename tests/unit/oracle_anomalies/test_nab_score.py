"""The benchmark's scoring against what NAB publishes about it, on series made by hand."""

import json
import math
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import nab  # type: ignore[import-not-found]  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "nab-dev"
STANDARD = nab.PROFILES["standard"]


def series(n: int, *windows: tuple[int, int]) -> "nab.Series":
    times = [datetime(2024, 1, 1) + i * timedelta(minutes=5) for i in range(n)]
    return nab.Series("made", times, np.zeros(n), windows)


def scored(one: "nab.Series", detections: list[int], profile: dict[str, float] = STANDARD) -> float:
    scores = np.zeros(len(one.values))
    scores[detections] = 1.0
    thresholds, changes = nab.steps(one, scores, profile)
    return float(changes[thresholds >= 1.0].sum())


def test_the_sigmoid_has_the_published_values() -> None:
    # NAB's scoring function: 0.98661 at the left edge, 0.84828 half way, 0 at the right edge, -0.98661 one width on.
    values = nab.sigmoid(np.array([-1.0, -0.5, 0.0, 1.0, 3.0]))
    assert values == pytest.approx([0.98661, 0.84828, 0.0, -0.98661, -1.0], abs=1e-5)


@pytest.mark.parametrize("profile", nab.PROFILES.values())
def test_null_is_0_and_perfect_is_100(profile: dict[str, float]) -> None:
    corpus = [series(1000, (300, 399), (700, 750)), series(500), series(400, (200, 239))]
    assert nab.corpus_score(corpus, [np.full(len(s.values), 0.5) for s in corpus], profile)[0] == 0
    assert nab.corpus_score(corpus, [nab.perfect(s) for s in corpus], profile)[0] == pytest.approx(100)


def test_only_the_first_detection_in_a_window_counts() -> None:
    one = series(1000, (300, 399))
    assert scored(one, [300]) == scored(one, [300, 310, 350]) == pytest.approx(2.0)
    assert scored(one, [350]) < scored(one, [310])


def test_a_false_alarm_costs_more_far_from_a_window_and_never_more_than_its_weight() -> None:
    one = series(1000, (300, 399))
    assert scored(one, [200]) == pytest.approx(-0.11), "before any window"
    assert scored(one, [401]) > scored(one, [420]) > scored(one, [500]) > scored(one, [720])
    assert scored(one, [720]) == pytest.approx(-0.11)


def test_probation_does_not_count() -> None:
    one = series(1000, (300, 399))
    assert scored(one, [0, 149]) == 0
    assert scored(one, [150]) < 0
    assert series(10_000).probation == 750


def test_the_threshold_is_the_best_for_the_corpus() -> None:
    one = series(1000, (300, 399))
    scores = np.zeros(1000)
    scores[300], scores[600:640] = 0.9, 0.8
    best, threshold = nab.corpus_score([one], [scores], STANDARD)
    assert (best, threshold) == (pytest.approx(100), 0.9)
    scores[200:240] = 0.95
    scores[300] = 0.1
    assert nab.corpus_score([one], [scores], STANDARD) == (0.0, math.inf), "saying nothing is better"


def test_command_line_scores_a_made_corpus(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 1, 700)
    values[500:503] += 40
    times = [datetime(2024, 1, 1) + i * timedelta(minutes=5) for i in range(700)]
    (tmp_path / "made").mkdir()
    rows = "".join(f"{t:%Y-%m-%d %H:%M:%S},{v:.3f}\n" for t, v in zip(times, values, strict=True))
    (tmp_path / "made" / "spike.csv").write_text("timestamp,value\n" + rows)
    limits = [[f"{times[490]:%Y-%m-%d %H:%M:%S}.000000", f"{times[539]:%Y-%m-%d %H:%M:%S}.000000"]]
    (tmp_path / "windows.json").write_text(json.dumps({"made/spike.csv": limits}))
    command = [sys.executable, ROOT / "bench" / "nab.py", "--data", tmp_path, "--windows", tmp_path / "windows.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    standard = next(line for line in done.stdout.splitlines() if line.startswith("standard"))
    assert float(standard.split()[1]) > 90


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/nab-dev is not on this machine")
def test_windows_of_the_real_corpus_are_found_in_its_series() -> None:
    windows = json.loads((DATA / "windows.json").read_text())
    corpus = nab.read_corpus(DATA, DATA / "windows.json")
    assert {s.name: len(s.windows) for s in corpus} == {name: len(limits) for name, limits in windows.items()}
    assert all(s.windows[0][0] >= s.probation for s in corpus if s.windows)
