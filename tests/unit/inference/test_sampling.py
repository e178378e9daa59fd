import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaicl.inference.draw import gumbel
from qaicl.inference.engine import Sampling
from qaicl.inference.sampling import choose

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(0, 3, 500).astype(np.float32)


def drawn(logits, positions=4000, history=(), **values):
    sampling = Sampling(**({"temperature": 1.0} | values))
    return np.array([choose(logits, history, sampling, position) for position in range(positions)])


def probabilities(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def test_greedy_takes_the_best_and_the_first_of_equals():
    assert choose(LOGITS, (), Sampling(), 0) == int(np.argmax(LOGITS))
    assert choose(np.array([1, 5, 5, 2], np.float32), (), Sampling(), 0) == 1


def test_frequencies_are_the_probabilities():
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.1, 0.025], np.float32))
    counts = np.bincount(drawn(logits, 6_000), minlength=5)
    expected = 6_000 * np.array([0.5, 0.25, 0.125, 0.1, 0.025])
    # Chi-square with 4 degrees of freedom: 18.5 is exceeded by chance once in a thousand.
    assert ((counts - expected) ** 2 / expected).sum() < 18.5


def test_frequencies_over_seeds_are_the_probabilities_as_well():
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32))
    tokens = [choose(logits, (), Sampling(temperature=1, seed=seed), 17) for seed in range(4_000)]
    expected = 4_000 * np.array([0.6, 0.3, 0.1])
    assert ((np.bincount(tokens, minlength=3) - expected) ** 2 / expected).sum() < 13.8


def test_temperature_sharpens():
    best = int(np.argmax(LOGITS))
    cool, warm = (np.mean(drawn(LOGITS, 1000, temperature=t) == best) for t in (0.3, 2.0))
    assert cool > 0.7 > 0.3 > warm
    assert set(drawn(LOGITS, 100, temperature=1e-30)) == {best}


def test_top_k_draws_from_the_k_best_only():
    allowed = set(np.argsort(LOGITS)[-5:].tolist())
    assert set(drawn(LOGITS, 2000, top_k=5, temperature=3.0).tolist()) == allowed


def test_top_p_draws_from_the_smallest_set_with_that_probability():
    order = np.argsort(LOGITS)[::-1]
    mass = np.cumsum(probabilities(LOGITS)[order])
    allowed = set(order[: int(np.searchsorted(mass, 0.7)) + 1].tolist())
    assert set(drawn(LOGITS, 3000, top_p=0.7).tolist()) <= allowed
    assert len(allowed) > 3
    assert set(drawn(LOGITS, 100, top_p=1e-9)) == {int(np.argmax(LOGITS))}


def test_top_k_and_top_p_keep_what_transformers_keeps():
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.from_numpy(LOGITS)[None]
    for warp in (TemperatureLogitsWarper(1.7), TopKLogitsWarper(40), TopPLogitsWarper(0.8)):
        scores = warp(None, scores)
    allowed = set(torch.nonzero(torch.isfinite(scores[0])).flatten().tolist())
    seen = set(drawn(LOGITS, 3000, temperature=1.7, top_k=40, top_p=0.8).tolist())
    assert seen <= allowed
    assert len(seen) > 0.9 * len(allowed)


def test_repetition_penalty_is_that_of_transformers():
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    history = [int(at) for at in np.argsort(LOGITS)[-3:]] * 2 + [int(np.argmin(LOGITS))]
    penalised = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([history]), torch.from_numpy(LOGITS.copy())[None])
    assert choose(LOGITS, history, Sampling(repetition_penalty=1.8), 0) == int(penalised.argmax())
    assert int(penalised.argmax()) != int(np.argmax(LOGITS))


def test_the_logits_given_are_not_changed():
    before = LOGITS.copy()
    drawn(LOGITS, 3, history=(1, 2, 3), repetition_penalty=2.0, top_k=4, top_p=0.5)
    np.testing.assert_array_equal(LOGITS, before)


@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_a_draw_depends_on_seed_and_position_alone(seed, position):
    sampling = Sampling(temperature=1.3, seed=seed)
    np.random.seed(position)
    first = choose(LOGITS, (), sampling, position)
    assert choose(LOGITS.copy(), (9, 9), sampling, position) == first


def test_noise_of_an_id_does_not_depend_on_which_others_are_candidates():
    everything = gumbel(5, 9, np.arange(1000))
    some = np.array([7, 300, 999])
    np.testing.assert_array_equal(gumbel(5, 9, some), everything[some])


def test_small_differences_of_the_logits_do_not_change_the_text():
    noise = RNG.normal(0, 1e-6, (2000, 500)).astype(np.float32)
    sampling = Sampling(temperature=1.0, top_p=0.99, seed=1)
    changed = [choose(LOGITS, (), sampling, at) != choose(LOGITS + noise[at], (), sampling, at) for at in range(2000)]
    assert sum(changed) == 0


def test_draws_are_the_same_in_another_process():
    code = (
        "import numpy as np; from qaicl.inference.sampling import choose; from qaicl.inference.engine import Sampling;"
        "l = np.sin(np.arange(300) * 1.7).astype(np.float32) * 4;"
        "print([choose(l, (), Sampling(temperature=0.8, seed=11), p) for p in range(20)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    logits = np.sin(np.arange(300) * 1.7).astype(np.float32) * 4
    assert done.stdout.strip() == str(drawn(logits, 20, temperature=0.8, seed=11).tolist())


def test_extreme_logits():
    assert choose(np.array([-np.inf, 2, -np.inf], np.float32), (), Sampling(temperature=1, top_p=0.9), 3) == 1
    with pytest.raises(ValueError, match="not numbers"):
        choose(np.array([1, np.nan, 3], np.float32), (), Sampling(temperature=1), 3)
