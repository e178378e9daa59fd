"""The real model that a newcomer meets first, against transformers."""

from pathlib import Path

import numpy as np
import pytest

from qaicl.inference.engine import ChatMessage, Sampling, Work

QUESTION = [ChatMessage("user", "Why is the sky blue? Answer in one sentence.")]
TOKENS = 64


@pytest.fixture(scope="module")
def expected(smollm2_directory, reference):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_directory)
    turns = [{"role": turn.role, "content": turn.content} for turn in QUESTION]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)["input_ids"]
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(smollm2_directory, dtype=torch.float32).eval()
    tokens, logits = reference(model, prompt, TOKENS)
    end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else TOKENS
    return list(prompt), tokens, logits, tokenizer.decode(tokens[:end], skip_special_tokens=True)


def test_the_prompt_is_rendered_as_transformers_renders_it(smollm2_directory, make_engine, expected):
    assert make_engine(smollm2_directory).encode(QUESTION, TOKENS) == expected[0]


def test_logits_and_64_greedy_tokens_are_those_of_transformers(
    smollm2_directory, make_engine, on_stages, record, expected
):
    prompt, tokens, logits, _ = expected
    engine = make_engine(smollm2_directory)
    pipeline = on_stages([engine], [], prompt)
    recorder = record(engine)
    assert pipeline.generate(TOKENS) == tokens
    np.testing.assert_allclose(np.stack(recorder.rows), logits, rtol=0, atol=1e-4)


def test_the_text_is_that_of_transformers(smollm2_directory, make_engine, expected):
    _, tokens, _, text = expected
    stream = make_engine(smollm2_directory).text(Sampling(max_tokens=TOKENS))
    assert "".join(stream.push(token).text for token in tokens) == text
    assert len(text) > 20


@pytest.mark.parametrize("boundary", range(1, 30))
def test_every_boundary_gives_the_same_logits(smollm2_directory, shared_engine, on_stages, expected, boundary):
    prompt, tokens, logits, _ = expected
    engine, recorder = shared_engine
    recorder.rows.clear()
    pipeline = on_stages([engine], [boundary], prompt, task=str(boundary))
    assert pipeline.generate(2) == tokens[:2]
    np.testing.assert_allclose(np.stack(recorder.rows), logits[:2], rtol=0, atol=1e-4)
    for _, name in pipeline.stages:
        engine.close_task(name)


@pytest.mark.parametrize("bounds", [[15], [10, 20], [6, 12, 18, 24]], ids=["2", "3", "5"])
def test_stages_on_engines_of_their_own_give_the_same_tokens(
    smollm2_directory, make_engine, on_stages, expected, bounds
):
    prompt, tokens, _, _ = expected
    engines = [make_engine(smollm2_directory) for _ in range(len(bounds) + 1)]
    assert on_stages(engines, bounds, prompt).generate(8) == tokens[:8]
    assert len(engines[0].loaded()) == bounds[0]


@pytest.fixture(scope="module")
def shared_engine(smollm2_directory, tmp_path_factory, record):
    from qaicl.inference.torch_engine import TorchEngine

    engine = TorchEngine(
        smollm2_directory,
        model="smollm2-135m",
        precision="float32",
        threads=1,
        max_tasks=4,
        memory_limit=None,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )
    engine.load(0, 29)
    return engine, record(engine)


def test_float32_weights_stay_in_the_mapped_file(smollm2_directory, make_engine):
    """Nodes on one machine share them: loading all of 538 MB makes next to no memory of the process's own."""

    def anonymous():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024

    before = anonymous()
    engine = make_engine(smollm2_directory)
    engine.load(0, 29)
    engine.open("t", 0, 29, 8, Sampling(), [1, 2])
    engine.step([Work("t", 0, (1, 2), sample=True)])
    assert engine.memory().weights > 500e6
    assert anonymous() - before < 100e6
