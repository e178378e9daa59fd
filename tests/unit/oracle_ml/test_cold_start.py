"""What a new process need not do: import the big frameworks, score again, forecast again. And nothing changes by it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from qaicl import settings
from qaicl.errors import DamagedFileError, UnsupportedModelError
from qaicl.oracle.forecast.lstm import AdamW
from qaicl.oracle.kept import keep
from qaicl.oracle.sentiment import service
from qaicl.oracle.sentiment.dataset import headlines
from qaicl.oracle.sentiment.network import load_encoder, load_scoring_encoder
from qaicl.oracle.sentiment.remembered import FILES, Remembered
from qaicl.oracle.sentiment.tokens import Encoding, pad


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, minilm_directory):
    monkeypatch.setenv("QAICL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QAICL_MODELS_DIRECTORY", str(minilm_directory.parent))
    return tmp_path


class Counting:
    """A model that counts how often it is asked."""

    name, version = "counting", "1"

    def __init__(self):
        self.asked = 0

    def probabilities(self, texts):
        self.asked += 1
        return np.array([[len(text) / 3, 0.1, 1 / 7] for text in texts]).reshape(len(texts), 3)


def remembered(directory, model, weights="w"):
    return Remembered(model.name, model.version, weights, directory, lambda: model)


def test_a_second_process_imports_no_framework_and_reports_the_same():
    script = (
        "import json, sys; from qaicl.cli.main import run; run(['oracle', 'report', '--recorded', '-o', 'json']); "
        "known = {'torch', 'torch._dynamo', 'transformers', 'sentence_transformers', 'sklearn', 'scipy'}; "
        "print(json.dumps(sorted(known & set(sys.modules))), file=sys.stderr)"
    )
    done = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True) for _ in range(2)]
    first, second = (json.loads(one.stdout) for one in done)
    imported = [json.loads(one.stderr.splitlines()[-1]) for one in done]
    assert first.pop("generated_at") < second.pop("generated_at")
    assert first == second
    assert first["sentiment"]["score"] is not None and first["forecast"]["record"]["tested"] > 0
    assert imported == [["scipy", "sklearn", "torch"], []]


def test_the_scoring_encoder_is_the_library_s_bit_by_bit(minilm_directory):
    light, width = load_scoring_encoder(minilm_directory)
    library, same_width = load_encoder(minilm_directory)
    assert width == same_width == 384
    rows = Encoding(minilm_directory).ids([example.text for example in headlines("heldout")[:12]])
    with torch.inference_mode():
        for batch in (rows, rows[:1]):
            ids, mask = pad(batch)
            expected = library.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
            assert torch.equal(light(ids, mask).last_hidden_state, expected)


def test_the_optimiser_is_torch_s_bit_by_bit():
    torch.manual_seed(1)
    ours = [torch.randn(5, 3), torch.randn(4)]
    theirs = [torch.nn.Parameter(one.clone()) for one in ours]
    mine, reference = AdamW(ours, rate=3e-3, decay=1e-2), torch.optim.AdamW(theirs, lr=3e-3, weight_decay=1e-2)
    for _ in range(30):
        gradients = [torch.randn_like(one) for one in ours]
        mine.step(gradients)
        for one, gradient in zip(theirs, gradients, strict=True):
            one.grad = gradient
        reference.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_an_answer_is_kept_exactly_for_these_texts_and_weights(tmp_path):
    model = Counting()
    said = remembered(tmp_path, model).probabilities(["a", "bb"])
    again = remembered(tmp_path, model).probabilities(["a", "bb"])
    assert model.asked == 1 and again.tobytes() == said.tobytes()
    remembered(tmp_path, model).probabilities(["bb", "a"])
    remembered(tmp_path, model, weights="others").probabilities(["a", "bb"])
    assert model.asked == 3
    assert remembered(tmp_path, model).probabilities([]).shape == (0, 3)


def test_a_damaged_answer_is_asked_for_again(tmp_path):
    model = Counting()
    remembered(tmp_path, model).probabilities(["a"])
    (file,) = tmp_path.iterdir()
    for content in (b"", file.read_bytes()[:60], b"\x93NUMPY nonsense", file.read_bytes() + b"", b"PK\x03\x04"):
        whole = remembered(tmp_path, model).probabilities(["a"])
        file.write_bytes(content)
        assert remembered(tmp_path, model).probabilities(["a"]).tobytes() == whole.tobytes()


def test_only_so_many_answers_are_kept(tmp_path):
    model = Counting()
    for number in range(FILES + 5):
        remembered(tmp_path, model).probabilities([str(number)])
    assert len(list(tmp_path.iterdir())) == FILES


def test_a_directory_that_cannot_be_written_costs_only_the_memory(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    keep(blocked / "answer", b"content")
    assert "is not kept" in caplog.text
    model = Counting()
    assert remembered(blocked, model).probabilities(["a"]).shape == (1, 3)


def test_what_does_not_fit_is_refused_before_anything_is_loaded(home, minilm_directory, monkeypatch):
    own = home / "own.safetensors"
    own.write_bytes(b"nothing")
    monkeypatch.setenv("QAICL_SENTIMENT_ADAPTER", str(own))
    with pytest.raises(DamagedFileError):
        service.model_of(settings.load())
    from qaicl.oracle.sentiment.adapter import SHIPPED, read_card

    other = home / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UnsupportedModelError, match="does not fit"):
        read_card(SHIPPED, other)


def test_broken_weights_are_named(home, minilm_directory):
    broken = home / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((minilm_directory / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes((minilm_directory / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(DamagedFileError, match="cannot load an encoder"):
        load_scoring_encoder(broken)
