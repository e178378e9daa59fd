import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaicl.inference.engine import Sampling
from qaicl.inference.text import GeneratedText

END = 0


class Characters:
    """Each id is a character."""

    def push(self, token):
        return chr(token)

    def flush(self):
        return ""


def run(text, **sampling):
    stream = GeneratedText(Characters(), (END,), Sampling(**sampling))
    return [stream.push(ord(character)) for character in text]


def shown(steps):
    return "".join(step.text for step in steps)


def test_text_comes_at_once_where_nothing_could_stop_it():
    assert [step.text for step in run("abc")] == ["a", "b", "c"]


def test_the_beginning_of_a_stop_string_is_held_back_until_decided():
    assert [step.text for step in run("aENd", stop=("END",))] == ["a", "", "", "ENd"]


def test_a_stop_string_ends_the_answer_and_is_not_shown():
    steps = run("abENDcd", stop=("END", "never"))
    assert shown(steps) == "ab"
    assert [step.finish for step in steps] == ["", "", "", "", "stop", "stop", "stop"]


def test_an_end_token_releases_what_is_held_back():
    steps = run("abEN\0x", stop=("END",))
    assert shown(steps) == "abEN"
    assert steps[4].finish == steps[5].finish == "stop"


def test_max_tokens_releases_what_is_held_back():
    steps = run("abEN", stop=("END",), max_tokens=4)
    assert shown(steps) == "abEN"
    assert [step.finish for step in steps] == ["", "", "", "length"]


def test_a_stop_string_completed_by_the_last_token_counts_as_stop():
    assert run("abEND", stop=("END",), max_tokens=5)[-1].finish == "stop"


def test_empty_stop_strings_are_no_stop_strings():
    assert shown(run("abc", stop=("",))) == "abc"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_whatever_is_shown_is_the_text_up_to_the_first_stop_string(text, stops):
    steps = run(text + "\0", stop=tuple(stops))
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not ends:
        assert shown(steps) == text
        return
    # The stop string that is complete first wins; of several complete at once the one that began first.
    end = min(ends)
    assert shown(steps) == text[: min(end - len(stop) for stop in stops if text[:end].endswith(stop))]


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_tokens_after_the_end_add_nothing(finish):
    steps = run("ab\0cd" if finish == "stop" else "abcde", max_tokens=3)
    assert steps[3] == steps[4]
    assert steps[3].text == ""
    assert steps[3].finish == finish
