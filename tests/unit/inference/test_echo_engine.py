import subprocess
import sys
from pathlib import Path

import pytest

from qaicl.errors import InferenceError, NoCapacityError, PromptError, UsageError
from qaicl.inference.echo import EchoEngine
from qaicl.inference.engine import ChatMessage, Sampling, Work
from qaicl.inference.factory import create_engine

PROMPT = list(b"user: why is the sky blue?\n")
DEFAULT = Sampling()


class Pipeline:
    """Stages of one request on separate engines, driven as the node daemons do it."""

    def __init__(self, bounds, *, sampling=DEFAULT, layers=12, history=PROMPT):
        ends = [*bounds, layers]
        self.stages = []
        for first, after in zip([0, *bounds], ends, strict=True):
            engine = EchoEngine(layers=layers)
            engine.load(first, after - 1)
            engine.open("t", first, after - 1, 512, sampling, history)
            self.stages.append(engine)

    def push(self, start, tokens, sample=True):
        hidden = None
        for engine in self.stages:
            work = Work("t", start, tokens=() if hidden else tuple(tokens), hidden=hidden, sample=sample)
            (result,) = engine.step([work])
            assert not result.error
            hidden = result.hidden
        return result.token

    def generate(self, tokens, count):
        tokens = list(tokens)
        fresh = tokens
        at = 0
        made = []
        for _ in range(count):
            made.append(self.push(at, fresh))
            at += len(fresh)
            fresh = [made[-1]]
        return made


@pytest.fixture
def undisturbed():
    return Pipeline([]).generate(PROMPT, 20)


@pytest.mark.parametrize("boundary", range(1, 12))
def test_every_split_gives_the_same_tokens(undisturbed, boundary):
    assert Pipeline([boundary]).generate(PROMPT, 20) == undisturbed


def test_five_stages_give_the_same_tokens(undisturbed):
    assert Pipeline([2, 5, 6, 11]).generate(PROMPT, 20) == undisturbed


def test_chunked_prefill_changes_nothing(undisturbed):
    pipeline = Pipeline([4])
    assert pipeline.push(0, PROMPT[:7], sample=False) is None
    assert pipeline.push(7, PROMPT[7:]) == undisturbed[0]


def test_replay_into_new_stages_goes_on_with_the_same_tokens(undisturbed):
    replayed = Pipeline([3, 8], history=PROMPT + undisturbed[:9])
    assert replayed.generate(PROMPT + undisturbed[:9], 11) == undisturbed[9:]


def test_rewinding_open_stages_replays_as_well(undisturbed):
    pipeline = Pipeline([6])
    pipeline.generate(PROMPT, 9)
    assert pipeline.generate(PROMPT + undisturbed[:5], 15) == undisturbed[5:]


def test_forgetting_the_replay_changes_the_text_or_is_refused(undisturbed):
    pipeline = Pipeline([6])
    pipeline.generate(PROMPT, 9)
    fresh = EchoEngine()
    fresh.load(6, 11)
    fresh.open("t", 6, 11, 512, Sampling(), PROMPT + undisturbed[:9])
    at = len(PROMPT) + 8
    hidden = pipeline.stages[0].step([Work("t", at, tokens=(undisturbed[8],))])[0].hidden
    (gap,) = fresh.step([Work("t", at, hidden=hidden, sample=True)])
    assert "does not follow" in gap.error
    fresh.close_task("t")
    fresh.open("t", 6, 11, 512, Sampling(), (undisturbed[8],))
    (lost,) = fresh.step([Work("t", 0, hidden=hidden, sample=True)])
    assert lost.token != undisturbed[9]


def test_wrong_order_of_layers_changes_the_text(undisturbed):
    pipeline = Pipeline([4, 8, 11])
    pipeline.stages[1:3] = pipeline.stages[2:0:-1]
    assert pipeline.push(0, PROMPT) != undisturbed[0]


def test_seed_and_prompt_change_the_text(undisturbed):
    assert Pipeline([], sampling=Sampling(seed=1)).generate(PROMPT, 20) != undisturbed
    other = list(b"user: why is the sky black?\n")
    assert Pipeline([], history=other).generate(other, 20) != undisturbed


def test_a_wrong_history_changes_the_text(undisturbed):
    wrong = [*PROMPT[:-1], 7]
    assert Pipeline([], history=wrong).generate(PROMPT, 5) != undisturbed[:5]


def test_text_is_words_and_ends_at_max_tokens(undisturbed):
    stream = EchoEngine().text(Sampling(max_tokens=3))
    steps = [stream.push(token) for token in undisturbed[:3]]
    assert [step.finish for step in steps] == ["", "", "length"]
    assert all(step.text.startswith(" ") and step.text[1:].isalpha() for step in steps)


def test_a_failed_task_leaves_the_rest_of_the_batch_alone(undisturbed):
    pipeline = Pipeline([])
    engine = pipeline.stages[0]
    results = engine.step([Work("unknown", 0, tokens=(1,)), Work("t", 0, tokens=tuple(PROMPT), sample=True)])
    assert "not open" in results[0].error
    assert results[1].token == undisturbed[0]


def test_capacity_is_kept():
    engine = EchoEngine(max_tasks=1, memory_limit=6 << 20)
    engine.load(0, 5)
    with pytest.raises(NoCapacityError, match="limit"):
        engine.load(6, 6)
    engine.open("a", 0, 5, 4, Sampling(), PROMPT)
    with pytest.raises(NoCapacityError, match="no slot"):
        engine.open("b", 0, 5, 4, Sampling(), PROMPT)
    assert "reserved" in engine.step([Work("a", 0, tokens=(1, 2, 3, 4, 5))])[0].error
    engine.close_task("a")
    engine.close_task("a")
    with pytest.raises(InferenceError, match="loaded"):
        engine.open("b", 0, 11, 4, Sampling(), PROMPT)


def test_prompts_are_checked():
    engine = EchoEngine(context_length=64)
    with pytest.raises(PromptError, match="empty"):
        engine.encode([ChatMessage("user", " ")], 4)
    with pytest.raises(PromptError, match="64"):
        engine.encode([ChatMessage("user", "x" * 60)], 4)
    assert engine.encode([ChatMessage("user", "hi")], 0) == list(b"user: hi\n")


def test_the_factory_makes_echo_without_numpy_or_torch():
    code = (
        "import sys; from pathlib import Path; from qaicl.inference.factory import create_engine;"
        "e = create_engine(Path('none'), model='echo', precision='auto', threads=1, max_tasks=2, memory_limit=None,"
        " cache_dir=Path('none'));"
        "print(e.info.model, [m for m in ('torch', 'numpy', 'jinja2', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "echo []\n"


def test_the_delay_comes_from_the_environment(monkeypatch):
    def make():
        return create_engine(
            Path("none"),
            model="echo",
            precision="auto",
            threads=1,
            max_tasks=2,
            memory_limit=None,
            cache_dir=Path("none"),
        )

    monkeypatch.setenv("QAICL_ECHO_DELAY_MS", "12")
    assert make().measure().details == {"delay": 0.012}
    monkeypatch.setenv("QAICL_ECHO_DELAY_MS", "soon")
    with pytest.raises(UsageError, match="soon"):
        make()
