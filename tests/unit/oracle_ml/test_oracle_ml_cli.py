"""The commands: data on stdout, versioned JSON, errors with their exit codes."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from qaicl.cli.main import run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, minilm_directory):
    monkeypatch.setenv("QAICL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QAICL_MODELS_DIRECTORY", str(minilm_directory.parent))
    return tmp_path


def printed(capsys):
    return json.loads(capsys.readouterr().out)


def test_each_line_of_a_file_is_scored(home, capsys):
    path = home / "h.jsonl"
    path.write_text('{"text": "Exchange hacked, funds stolen", "id": 1}\n\n{"text": "Ether rallies to new highs"}\n')
    assert run(["oracle", "sentiment", "--input", str(path), "-o", "json"]) == 0
    document = printed(capsys)
    assert document["version"] == 1
    assert [(one["text"], one["label"]) for one in document["items"]] == [
        ("Exchange hacked, funds stolen", "negative"),
        ("Ether rallies to new highs", "positive"),
    ]
    assert all(0 < one["confidence"] <= 1 and -1 <= one["score"] <= 1 for one in document["items"])


def test_a_text_with_markup_and_escapes_is_printed_as_text(capsys):
    assert run(["oracle", "sentiment", "Coin [bold]falls[/bold] \x1b[31mhard [/nothing]"]) == 0
    out = capsys.readouterr().out
    assert "[bold]falls[/bold]" in out
    assert "\x1b" not in out


def test_the_recorded_headlines_make_a_report(capsys):
    assert run(["oracle", "sentiment", "--recorded", "-o", "json"]) == 0
    document = printed(capsys)
    assert document["label"] in ("positive", "negative", "neutral")
    assert document["counts"]["stories"] > 0
    assert document["model_version"]
    assert run(["oracle", "sentiment", "--recorded"]) == 0
    assert "stories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sentiment", "--input", "none.jsonl"], 2, "cannot read none.jsonl"),
        (["sentiment", "text", "--input", "none.jsonl"], 2, "both given"),
        (["sentiment", "--asset", "none"], 2, "no asset 'none'"),
        (["backtest", "--candles", "none.csv"], 2, "cannot read candles"),
        (["train", "--tweets", "none.csv", "--adapter", "a"], 2, "cannot read none.csv"),
    ],
)
def test_what_is_wrong_is_told_with_an_exit_code(arguments, code, said, capsys):
    assert run(["oracle", *arguments]) == code
    assert said in capsys.readouterr().err


def test_a_model_that_has_not_been_pulled_is_named_with_the_command(home, monkeypatch, capsys):
    monkeypatch.setenv("QAICL_MODELS_DIRECTORY", str(home / "empty"))
    assert run(["oracle", "sentiment", "text"]) == 1
    assert "qaicl model pull all-minilm-l6-v2" in capsys.readouterr().err
    monkeypatch.setenv("QAICL_SENTIMENT_MODEL", "no-such-model")
    assert run(["oracle", "sentiment", "text"]) == 2


def test_a_backtest_of_a_file_prints_its_record(home, capsys):
    close = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, 420)))
    table = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=420, freq="1h", tz="UTC")})
    for name in ("open", "high", "low", "close"):
        table[name] = close
    table["volume"] = 1.0
    table.to_csv(home / "c.csv", index=False)
    assert run(["oracle", "backtest", "--candles", str(home / "c.csv"), "--horizon", "4", "-o", "json"]) == 0
    document = printed(capsys)
    assert document["verdict"] == "NO EDGE"
    assert {one["name"] for one in document["baselines"]} == {"persistence", "majority", "drift"}
    assert document["purge_bars"] == 4
    assert run(["oracle", "backtest", "--candles", str(home / "c.csv"), "--horizon", "4"]) == 0
    assert "NO EDGE" in capsys.readouterr().out


def test_a_trained_adapter_can_be_used(home, monkeypatch, capsys):
    tweets = home / "tweets.csv"
    monkeypatch.setattr("qaicl.oracle.sentiment.training.HEADLINE_REPEATS", 0)
    adapter = home / "mine.safetensors"
    labels = "negative", "positive", "neutral"
    pd.DataFrame([{"text": f"{label} {number}", "label": label} for number in range(12) for label in labels]).to_csv(
        tweets
    )
    assert (
        run(["oracle", "train", "--tweets", str(tweets), "--adapter", str(adapter), "--epochs", "1", "-o", "json"]) == 0
    )
    version = printed(capsys)["card"]["run"]
    monkeypatch.setenv("QAICL_SENTIMENT_ADAPTER", str(adapter))
    assert run(["oracle", "sentiment", "text", "-o", "json"]) == 0
    assert printed(capsys)["model_version"] == version


@pytest.mark.parametrize("command", ["sentiment", "train", "backtest"])
def test_help_is_quick_and_has_an_example(command):
    script = (
        "import sys; from qaicl.cli.main import run; code = run(['oracle', sys.argv[1], '--help']); "
        "heavy = {'torch', 'transformers', 'pandas', 'sklearn'} & set(sys.modules); "
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
