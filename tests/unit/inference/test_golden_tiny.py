"""Our decoder against transformers, for the same float32 weights."""

import numpy as np
import pytest

from qaicl.inference.engine import Sampling, Work

NAMES = [
    "qwen2-tied",
    "qwen2-untied-yarn",
    "qwen3-tied-wide-heads",
    "qwen3-untied",
    "llama-untied-biases",
    "llama-tied-no-groups",
]
ONE_OF_EACH_FAMILY = ["qwen2-tied", "qwen3-tied-wide-heads", "llama-untied-biases"]
PROMPT = [(37 * at + 11) % 256 for at in range(40)]


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_64_greedy_tokens_are_those_of_transformers(
    tiny_model, make_engine, on_stages, record, reference, name
):
    directory, model = tiny_model(name)
    expected_tokens, expected_logits = reference(model, PROMPT, 64)
    engine = make_engine(directory)
    pipeline = on_stages([engine], [], PROMPT)
    recorder = record(engine)
    assert pipeline.generate(64) == expected_tokens
    assert len(set(expected_tokens)) > 8, "a model that repeats itself would prove little"
    np.testing.assert_allclose(np.stack(recorder.rows), expected_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
@pytest.mark.parametrize("bounds", [[1], [2], [3], [4], [1, 3], [1, 2, 3, 4]], ids=str)
def test_every_split_equals_unsplit(tiny_model, make_engine, on_stages, record, name, bounds):
    directory, _ = tiny_model(name)

    def run(bounds):
        engines = [make_engine(directory) for _ in range(len(bounds) + 1)]
        pipeline = on_stages(engines, bounds, PROMPT)
        recorder = record(engines[-1])
        return pipeline.generate(32), np.stack(recorder.rows)

    tokens, logits = run(bounds)
    whole_tokens, whole_logits = run([])
    assert tokens == whole_tokens
    np.testing.assert_allclose(logits, whole_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_a_batch_equals_each_alone(tiny_model, make_engine, on_stages, record, name):
    directory, _ = tiny_model(name)
    prompts = [PROMPT, PROMPT[:3], [5], PROMPT[::-1] * 3]

    alone_tokens, alone_logits = [], []
    for prompt in prompts:
        engine = make_engine(directory)
        pipeline = on_stages([engine], [], prompt)
        recorder = record(engine)
        alone_tokens.append(pipeline.generate(16))
        alone_logits.append(recorder.rows)

    engine = make_engine(directory)
    engine.load(0, 4)
    recorder = record(engine)
    tokens = [[] for _ in prompts]
    logits = [[] for _ in prompts]
    for at, prompt in enumerate(prompts):
        engine.open(str(at), 0, 4, 256, Sampling(), prompt)
    # Each joins a step later than the one before, so that prefills and decodes meet in one batch.
    for round_ in range(16 + len(prompts)):
        work = []
        for at, prompt in enumerate(prompts):
            if round_ == at:
                work.append(Work(str(at), 0, tuple(prompt), sample=True))
            elif at < round_ and len(tokens[at]) < 16:
                work.append(Work(str(at), len(prompt) + len(tokens[at]) - 1, (tokens[at][-1],), sample=True))
        recorder.rows.clear()
        for result, row in zip(engine.step(work), list(recorder.rows), strict=True):
            tokens[int(result.task)].append(result.token)
            logits[int(result.task)].append(row)
    assert tokens == alone_tokens
    for together, alone in zip(logits, alone_logits, strict=True):
        np.testing.assert_allclose(np.stack(together), np.stack(alone), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=5)], ids=["greedy", "drawn"]
)
def test_replay_into_new_stages_goes_on_with_the_same_tokens(tiny_model, make_engine, on_stages, name, sampling):
    directory, _ = tiny_model(name)
    undisturbed = on_stages([make_engine(directory)], [], PROMPT, sampling=sampling).generate(40)
    engines = [make_engine(directory) for _ in range(3)]
    replayed = on_stages(engines, [2, 3], PROMPT + undisturbed[:17], sampling=sampling)
    assert replayed.generate(23) == undisturbed[17:]


def test_only_the_dead_stage_is_new_and_the_others_rewind(tiny_model, make_engine, on_stages):
    directory, _ = tiny_model("qwen2-tied")
    undisturbed = on_stages([make_engine(directory)], [], PROMPT).generate(40)
    pipeline = on_stages([make_engine(directory) for _ in range(3)], [1, 3], PROMPT)
    assert pipeline.generate(17) == undisturbed[:17]
    fresh = make_engine(directory)
    fresh.load(1, 2)
    fresh.open("fresh", 1, 2, 256, Sampling(), PROMPT + undisturbed[:17])
    pipeline.stages[1] = (fresh, "fresh")
    pipeline.prompt = PROMPT + undisturbed[:17]
    assert pipeline.generate(23) == undisturbed[17:]


def test_chunked_prefill_equals_whole_prefill(tiny_model, make_engine, on_stages, record):
    directory, _ = tiny_model("qwen3-tied-wide-heads")
    long = (PROMPT * 9)[:330]  # more than one block of attention rows
    rows = []
    for cuts in ([330], [1, 7, 200, 329, 330]):
        engine = make_engine(directory)
        pipeline = on_stages([engine], [], long, capacity=400)
        recorder = record(engine)
        start = 0
        for cut in cuts:
            pipeline.push(start, long[start:cut], sample=cut == 330)
            start = cut
        rows.append(recorder.rows[-1])
    np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=1e-4)


def test_stages_of_different_ranges_share_one_engine(tiny_model, make_engine, on_stages):
    directory, _ = tiny_model("llama-untied-biases")
    engine = make_engine(directory)
    one = on_stages([engine], [2], PROMPT, task="one")
    two = on_stages([engine], [], PROMPT, task="two")
    assert one.generate(10) == two.generate(10)


def test_a_long_prompt_equals_transformers(tiny_model, make_engine, on_stages, record, reference):
    directory, model = tiny_model("qwen2-untied-yarn")
    long = (PROMPT * 12)[:470]
    expected_tokens, expected_logits = reference(model, long, 4)
    engine = make_engine(directory)
    pipeline = on_stages([engine], [], long, capacity=512)
    recorder = record(engine)
    assert pipeline.generate(4) == expected_tokens
    np.testing.assert_allclose(np.stack(recorder.rows), expected_logits, rtol=0, atol=1e-4)
