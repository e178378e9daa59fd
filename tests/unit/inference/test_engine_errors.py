"""Bad input, damaged files and full memory: a clear error, and the engine serves on."""

import json
import shutil

import numpy as np
import pytest

from qaicl.errors import (
    DamagedFileError,
    InferenceError,
    ModelMissingError,
    NoCapacityError,
    PromptError,
    UnsupportedModelError,
)
from qaicl.inference.engine import Activation, ChatMessage, Sampling, Work

PROMPT = (1, 2, 3, 4)


@pytest.fixture
def copied(tiny_model, tmp_path):
    """A directory that a test may damage."""
    target = tmp_path / "model"
    shutil.copytree(tiny_model("qwen2-tied")[0], target)
    return target


@pytest.fixture
def engine(tiny_model, make_engine):
    engine = make_engine(tiny_model("qwen2-tied")[0])
    engine.load(0, 4)
    return engine


def change_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def user(text):
    return [ChatMessage("user", text)]


def test_empty_prompts_are_refused(engine):
    for messages in ([], user(""), user(" \n")):
        with pytest.raises(PromptError, match="empty"):
            engine.encode(messages, 4)


def test_text_that_is_not_unicode_is_refused(engine):
    with pytest.raises(PromptError, match="not valid text"):
        engine.encode(user("broken \ud800"), 4)


def test_too_long_prompts_are_refused_with_the_numbers(engine):
    with pytest.raises(PromptError, match=r"\d+ tokens and 100 to generate are more than the model's 512"):
        engine.encode(user("x" * 450), 100)
    tokens = engine.encode(user("x" * 400), 0)
    assert len(tokens) <= 512
    with pytest.raises(PromptError, match=f"{len(tokens)} tokens"):
        engine.encode(user("x" * 400), 513 - len(tokens))
    assert engine.encode(user("x" * 400), 512 - len(tokens)) == tokens


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "sliding"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
    ],
)
def test_unsupported_architectures_are_named(copied, make_engine, values, named):
    change_config(copied, **values)
    with pytest.raises(UnsupportedModelError, match=named):
        make_engine(copied)


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": "llama"', '{"model_type": "llama"}'])
def test_a_damaged_config_is_named(copied, make_engine, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"config\.json"):
        make_engine(copied)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_cut_off_weights_are_named(copied, make_engine, keep):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        make_engine(copied)


def test_garbage_instead_of_weights_is_named(copied, make_engine):
    (copied / "model.safetensors").write_bytes(b"\xff" * 4096)
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        make_engine(copied)


def test_weights_that_do_not_fit_the_config_are_named(copied, make_engine):
    change_config(copied, intermediate_size=100)
    engine = make_engine(copied)
    with pytest.raises(DamagedFileError, match=r"gate_proj.*\[96, 64\] and must be \[100, 64\]"):
        engine.load(0, 0)
    change_config(copied, intermediate_size=96, num_hidden_layers=6)
    engine = make_engine(copied)
    with pytest.raises(DamagedFileError, match=r"no tensor model\.layers\.5"):
        engine.load(0, 5)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(copied, make_engine, name):
    (copied / name).unlink()
    with pytest.raises(ModelMissingError, match=name):
        make_engine(copied)


def test_a_damaged_tokenizer_is_named(copied, make_engine):
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"tokenizer\.json"):
        make_engine(copied)


def test_shards_are_found_by_their_index(tiny_model, tmp_path, make_engine, on_stages):
    directory, model = tiny_model("qwen2-tied")
    sharded = tmp_path / "sharded"
    shutil.copytree(directory, sharded)
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="200KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole = on_stages([make_engine(directory)], [], PROMPT).generate(8)
    assert on_stages([make_engine(sharded)], [2], PROMPT).generate(8) == whole
    next(iter(sorted(sharded.glob("*.safetensors")))).unlink()
    with pytest.raises(ModelMissingError, match="safetensors"):
        make_engine(sharded)


def test_layers_that_do_not_fit_are_refused_and_unused_ones_make_room(tiny_model, make_engine):
    directory, _ = tiny_model("qwen2-tied")
    layer = make_engine(directory).info.layer_bytes
    engine = make_engine(directory, memory_limit=3 * layer + 100_000)
    engine.load(1, 3)
    with pytest.raises(NoCapacityError, match="MiB are free"):
        engine.load(0, 4)
    assert engine.loaded() == (1, 2, 3)
    engine.open("t", 3, 3, 8, Sampling(), PROMPT)
    engine.load(2, 2)
    engine.load(3, 3)
    assert engine.loaded() == (1, 2, 3)
    engine.load(0, 1)
    assert engine.loaded() == (0, 1, 3), "layer 2 made room, layer 3 is in use"


def test_requests_that_do_not_fit_are_refused(tiny_model, make_engine):
    directory, _ = tiny_model("qwen2-tied")
    engine = make_engine(directory, memory_limit=3_000_000, max_tasks=2)
    engine.load(0, 0)
    memory = engine.memory()
    assert memory.weights >= engine.info.layer_bytes
    position = 2 * 2 * 16 * 4
    engine.open("a", 0, 0, 512, Sampling(), PROMPT)
    assert engine.memory().cache == 512 * position
    assert engine.memory().free == memory.free - 512 * position
    engine.open("b", 0, 0, 8, Sampling(), PROMPT)
    with pytest.raises(NoCapacityError, match="2 requests"):
        engine.open("c", 0, 0, 8, Sampling(), PROMPT)
    engine.close_task("a")
    engine.close_task("b")
    assert engine.memory() == memory
    tight = make_engine(directory, memory_limit=memory.weights + 100 * position)
    tight.load(0, 0)
    with pytest.raises(NoCapacityError, match="512 positions"):
        tight.open("a", 0, 0, 512, Sampling(), PROMPT)


def test_opening_needs_loaded_layers_and_a_name_once(engine):
    with pytest.raises(InferenceError, match="no layers 0 to 5"):
        engine.open("t", 0, 5, 8, Sampling(), PROMPT)
    with pytest.raises(InferenceError, match="context is 512"):
        engine.open("t", 0, 4, 513, Sampling(), PROMPT)
    engine.open("t", 0, 4, 8, Sampling(), PROMPT)
    with pytest.raises(InferenceError, match="open already"):
        engine.open("t", 0, 4, 8, Sampling(), PROMPT)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (Work("unknown", 0, (1,)), "not open"),
        (Work("bad", 0, ()), "nothing"),
        (Work("bad", 0, (1, 272)), "vocabulary"),
        (Work("bad", 0, (-1,)), "vocabulary"),
        (Work("bad", 2, (1,)), "does not follow"),
        (Work("bad", -1, (1,)), "does not follow"),
        (Work("bad", 0, (1,) * 9), "9 positions are more than the 8"),
        (Work("bad", 0, (1,) * 5, sample=True), "history ends at 4"),
        (Work("late", 0, (1,)), "missing"),
        (Work("late", 0, hidden=Activation(b"", "float32", 0)), "nothing"),
        (Work("late", 0, hidden=Activation(bytes(255), "float32", 1)), "255 bytes and must be 256"),
        (Work("late", 0, hidden=Activation(bytes(256), "complex64", 1)), "unknown type"),
        (Work("late", 0, hidden=Activation(b"\xff" * 256, "float32", 1), sample=True), "not numbers"),
    ],
)
def test_one_bad_piece_fails_alone(engine, bad, named):
    def alone():
        engine.open("good", 0, 4, 8, Sampling(), PROMPT)
        (result,) = engine.step([Work("good", 0, PROMPT, sample=True)])
        engine.close_task("good")
        return result

    expected = alone()
    engine.open("good", 0, 4, 8, Sampling(), PROMPT)
    engine.open("bad", 0, 4, 8, Sampling(), PROMPT)
    engine.open("late", 2, 4, 8, Sampling(), PROMPT)
    failed, good = engine.step([bad, Work("good", 0, PROMPT, sample=True)])
    assert named in failed.error
    assert failed.task == bad.task
    assert good == expected


def test_a_stage_takes_hidden_states_of_another_precision(tiny_model, make_engine):
    directory, _ = tiny_model("qwen2-tied")
    first = make_engine(directory)
    first.load(0, 1)
    first.open("t", 0, 1, 8, Sampling(), PROMPT)
    (result,) = first.step([Work("t", 0, PROMPT)])
    second = make_engine(directory, precision="bfloat16")
    second.load(2, 4)
    second.open("t", 2, 4, 8, Sampling(), PROMPT)
    (answer,) = second.step([Work("t", 0, hidden=result.hidden, sample=True)])
    assert answer.error == ""
    assert np.frombuffer(result.hidden.data, np.float32).shape == (4 * 64,)
