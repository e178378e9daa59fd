"""Rounded weights: what they cost in accuracy, that they split and batch as float32 does, and how auto chooses."""

import multiprocessing

import numpy as np
import pytest
import torch

from qaicl.errors import UnsupportedModelError
from qaicl.inference.engine import ChatMessage, Sampling, Speed, Work
from qaicl.inference.linear import Int4, Int8
from qaicl.inference.precision import numerics
from qaicl.inference.speed import SpeedCache

ROUNDED = ["bfloat16", "int8", "int4"]
PROMPT = [(37 * at + 11) % 256 for at in range(24)]


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize(("packed", "bound"), [(Int8, 0.012), (Int4, 0.12)])
def test_rounded_products_are_near_the_exact_ones(packed, bound, rows):
    generator = torch.Generator().manual_seed(1)
    parts = [
        (torch.randn(size, 64, generator=generator), torch.randn(size, generator=generator)) for size in (32, 16, 16)
    ]
    x = torch.randn(rows, 64, generator=generator)
    exact = torch.cat([torch.nn.functional.linear(x, *part) for part in parts], 1)
    error = (packed(parts)(x) - exact).norm() / exact.norm()
    assert error < bound


def test_int4_keeps_weights_that_were_made_of_sixteen_steps():
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(0, 16, (64, 2, 32), generator=generator).float()
    steps[..., 0], steps[..., 1] = 0, 15
    weight = (steps * 0.25 - 2).view(64, 64)  # scale and offset are exact in bfloat16, as nearly in Q4_1 files
    x = torch.randn(3, 64, generator=generator).bfloat16().float()
    torch.testing.assert_close(Int4([(weight, None)])(x), x @ weight.T, rtol=0.01, atol=0.05)


def test_int4_says_which_shapes_it_cannot_pack():
    with pytest.raises(UnsupportedModelError, match="16 x 48"):
        Int4([(torch.zeros(16, 48), None)])


def test_logits_stay_near_float32_on_the_real_model(smollm2_directory, make_engine, on_stages, record):
    logits = {}
    for precision in ("float32", *ROUNDED):
        engine = make_engine(smollm2_directory, precision=precision)
        prompt = engine.encode([ChatMessage("user", "Hi")], 1)
        pipeline = on_stages([engine], [], prompt)
        recorder = record(engine)
        pipeline.push(0, prompt)
        (logits[precision],) = recorder.rows
    for precision, bound in {"bfloat16": 0.998, "int8": 0.998, "int4": 0.99}.items():
        assert np.corrcoef(logits["float32"], logits[precision])[0, 1] > bound, precision
        assert int(np.argmax(logits["float32"])) == int(np.argmax(logits[precision])), precision


@pytest.mark.parametrize("precision", ROUNDED)
def test_every_split_gives_the_same_tokens(tiny_model, make_engine, on_stages, precision):
    directory, _ = tiny_model("qwen2-tied")
    whole = on_stages([make_engine(directory, precision=precision)], [], PROMPT).generate(24)
    for boundary in range(1, 5):
        engines = [make_engine(directory, precision=precision) for _ in range(2)]
        assert on_stages(engines, [boundary], PROMPT).generate(24) == whole


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_batch_gives_nearly_the_logits_of_each_alone(tiny_model, make_engine, record, precision):
    directory, _ = tiny_model("llama-untied-biases")
    prompts = [PROMPT, PROMPT[:1], PROMPT[5:9]]

    def logits_of(chosen):
        engine = make_engine(directory, precision=precision)
        engine.load(0, 4)
        recorder = record(engine)
        for at in chosen:
            engine.open(str(at), 0, 4, 64, Sampling(), prompts[at])
        engine.step([Work(str(at), 0, tuple(prompts[at]), sample=True) for at in chosen])
        return recorder.rows

    together = logits_of([0, 1, 2])
    for at in range(3):
        alone = logits_of([at])[0]
        assert np.linalg.norm(together[at] - alone) < 0.03 * np.linalg.norm(alone)


def test_rounding_saves_memory(tiny_model, make_engine):
    directory, _ = tiny_model("qwen2-tied")
    sizes = {}
    for precision in ("float32", *ROUNDED):
        engine = make_engine(directory, precision=precision)
        engine.load(1, 1)
        sizes[precision] = engine.memory().weights
        assert engine.info.precision == precision
        assert sizes[precision] == pytest.approx(engine.info.layer_bytes, rel=0.1)
    assert sizes["float32"] > sizes["bfloat16"] > sizes["int8"] > sizes["int4"]


def test_int8_on_a_gpu_is_refused():
    with pytest.raises(UnsupportedModelError, match="CPU only"):
        numerics("int8", torch.device("cuda"))


@pytest.mark.parametrize(
    ("layer_ms", "chosen"),
    [
        ({"float32": 3.0, "bfloat16": 2.0, "int8": 1.0}, "int8"),
        ({"float32": 3.0, "bfloat16": 1.0, "int8": 2.0}, "bfloat16"),
        ({"float32": 3.0, "bfloat16": 9.0, "int8": 2.9}, "float32"),
    ],
)
def test_auto_takes_the_fastest_kept_measurement(tiny_model, make_engine, tmp_path, layer_ms, chosen):
    directory, _ = tiny_model("qwen2-tied")
    digest = make_engine(directory).info.digest
    cache = SpeedCache(tmp_path / "speeds", digest, 1)
    for precision, milliseconds in layer_ms.items():
        cache.get(precision, lambda seconds=milliseconds / 1e3: Speed(seconds, 0.0))
    engine = make_engine(directory, precision="auto", cache_dir=tmp_path / "speeds")
    assert engine.info.precision == chosen


def test_auto_measures_what_is_not_kept(tiny_model, make_engine, tmp_path):
    directory, _ = tiny_model("qwen2-tied")
    engine = make_engine(directory, precision="auto", cache_dir=tmp_path / "new")
    assert engine.info.precision in ("float32", "bfloat16", "int8")
    assert len(list((tmp_path / "new").glob("speed-*.json"))) == 3


def test_a_measurement_is_kept_and_measured_again_where_it_is_unreadable(tiny_model, make_engine, tmp_path):
    directory, _ = tiny_model("qwen3-untied")
    kept = make_engine(directory, cache_dir=tmp_path).measure()
    assert kept.layer_seconds > 0
    assert kept.ends_seconds > 0
    assert make_engine(directory, cache_dir=tmp_path).measure() == kept
    assert make_engine(directory, cache_dir=tmp_path, threads=2).measure() != kept
    (file,) = [path for path in tmp_path.glob("speed-*.json") if str(kept.layer_seconds) in path.read_text()]
    file.write_text("half a fi")
    assert make_engine(directory, cache_dir=tmp_path).measure() != kept


def test_a_cache_that_cannot_be_written_costs_only_the_keeping(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = SpeedCache(blocked / "below", "digest", 1)
    assert cache.get("float32", lambda: Speed(1.0, 2.0)) == Speed(1.0, 2.0)
    assert "cannot keep measurements" in caplog.text


def _measure_once(directory, counter):
    def measure():
        with counter.get_lock():
            counter.value += 1
        return Speed(1.0, 1.0)

    SpeedCache(directory, "digest", 1).get("float32", measure)


def test_nodes_that_start_together_measure_once(tmp_path):
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    processes = [context.Process(target=_measure_once, args=(tmp_path, counter)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.value == 1
