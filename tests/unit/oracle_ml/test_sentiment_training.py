"""Training on the real base encoder: repeatable, resumable, and it learns."""

import msgspec
import pytest
import torch

from qaicl.errors import BadDatasetError, DamagedFileError, ModelMissingError, UnsupportedModelError
from qaicl.oracle.sentiment import adapter, training
from qaicl.oracle.sentiment.dataset import Example, headlines
from qaicl.oracle.sentiment.model import AdapterModel
from qaicl.oracle.sentiment.scoring import score

RECIPE = training.Recipe(seed=3, epochs=1, batch=8, rank=4, alpha=4.0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def examples():
    return headlines("train")[::20]


def test_an_interrupted_training_goes_on_and_ends_the_same(minilm_directory, examples, tmp_path):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    card = training.train(minilm_directory, examples, RECIPE, whole)
    assert training.train(minilm_directory, examples, RECIPE, parts, stop_after=2) is None
    assert not parts.exists()
    steps = []
    resumed = training.train(minilm_directory, examples, RECIPE, parts, report=lambda one: steps.append(one.step))
    assert steps[0] == 3
    assert resumed == card
    assert whole.read_bytes() == parts.read_bytes()
    assert not parts.with_name("parts.safetensors.checkpoint").exists()


def test_an_interrupt_keeps_what_was_learnt(minilm_directory, examples, tmp_path):
    target = tmp_path / "a.safetensors"

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(minilm_directory, examples, RECIPE, target, report=stop)
    seen = []
    training.train(minilm_directory, examples, RECIPE, target, report=lambda one: seen.append(one.step))
    assert seen[0] in (2, 3)


def test_training_learns_what_it_is_shown(minilm_directory, tmp_path):
    up, down = "the coin went up a lot", "the coin went down a lot"
    # Real headlines beside them, so that there is something to calibrate with; the labels of the two are the wrong way.
    shown = [Example(up, "negative"), Example(down, "positive")] * 12 + headlines("train")[::20]
    recipe = msgspec.structs.replace(RECIPE, epochs=4, adapter_rate=3e-3)
    training.train(minilm_directory, shown, recipe, tmp_path / "a.safetensors")
    model = AdapterModel(minilm_directory, tmp_path / "a.safetensors")
    assert [one.label for one in score(model, [up, down])] == ["negative", "positive"]


def test_merged_weights_score_like_the_layers_that_were_trained(minilm_directory, examples, tmp_path):
    from qaicl.oracle.sentiment.network import Classifier, LowRank, adapt, load_encoder, merge, trained_tensors

    torch.manual_seed(1)
    encoder, width = load_encoder(minilm_directory)
    adapt(encoder, 4, 8.0)
    trained = Classifier(encoder, width, 3).eval()
    for module in trained.modules():
        if isinstance(module, LowRank):
            torch.nn.init.normal_(module.up, std=0.02)
    plain_encoder, width = load_encoder(minilm_directory)
    plain = Classifier(plain_encoder, width, 3).eval()
    merge(plain, trained_tensors(trained), 2.0)
    ids, mask = torch.tensor([[101, 2003, 2009, 102]]), torch.ones(1, 4, dtype=torch.long)
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids, mask), trained(ids, mask), rtol=1e-4, atol=1e-5)


def test_a_text_never_lies_on_both_sides_of_the_calibration_split():
    examples = headlines("train") * 3
    train, calibration = training.split(examples, training.Recipe())
    assert len(train) + len(calibration) == len(examples)
    assert 0.06 < len(calibration) / len(examples) < 0.14
    assert not {one.text for one in train} & {one.text for one in calibration}


def test_calibration_undoes_overconfidence_and_a_shift():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6000, 3, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    temperature, bias = training.calibrate(3.0 * (logits + torch.tensor([0.4, 0.4, -0.8])), labels)
    assert temperature == pytest.approx(3.0, rel=0.1)
    assert bias == pytest.approx((-0.4, -0.4, 0.8), abs=0.1)


def test_every_row_is_in_one_batch_and_batches_are_about_equally_long():
    lengths = torch.randint(5, 60, (1000,), generator=torch.Generator().manual_seed(1)).tolist()
    cut = training.batches(lengths, 32, seed=1)
    assert sorted(index for batch in cut for index in batch) == list(range(1000))
    assert sum(max(lengths[i] for i in batch) * len(batch) for batch in cut) < 1.15 * sum(lengths)
    assert cut == training.batches(lengths, 32, seed=1) != training.batches(lengths, 32, seed=2)


def test_a_label_that_never_occurs_is_named(minilm_directory, tmp_path):
    with pytest.raises(BadDatasetError, match="neutral"):
        training.train(
            minilm_directory,
            [Example(f"up {i}", "positive") for i in range(20)] + [Example(f"down {i}", "negative") for i in range(20)],
            RECIPE,
            tmp_path / "a",
        )


def test_an_adapter_that_is_missing_damaged_or_for_another_model_is_refused(minilm_directory, tmp_path):
    with pytest.raises(ModelMissingError):
        AdapterModel(minilm_directory, tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(adapter.SHIPPED.read_bytes()[:5000])
    with pytest.raises(DamagedFileError):
        AdapterModel(minilm_directory, broken)
    tensors, card = adapter.load(adapter.SHIPPED)
    adapter.save(tmp_path / "other.safetensors", tensors, msgspec.structs.replace(card, base="0" * 16))
    with pytest.raises(UnsupportedModelError, match="does not fit"):
        AdapterModel(minilm_directory, tmp_path / "other.safetensors")
    with pytest.raises(ModelMissingError):
        AdapterModel(tmp_path)
