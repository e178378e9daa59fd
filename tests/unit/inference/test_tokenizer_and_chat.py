import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qaicl.errors import DamagedFileError, PromptError
from qaicl.inference.chat import ChatTemplate
from qaicl.inference.config import read_config
from qaicl.inference.engine import ChatMessage, Sampling
from qaicl.inference.tokenizer import ModelTokenizer

TURNS = [ChatMessage("system", "Be kind."), ChatMessage("user", "Hi äö 🙂")]


@pytest.fixture(scope="module")
def directory(tiny_model):
    return tiny_model("qwen2-tied")[0]


@pytest.fixture(scope="module")
def tokenizer(directory):
    return ModelTokenizer(directory, read_config(directory))


def template_of(tmp_path, template, **settings_):
    content = {"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}} | settings_
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    return ChatTemplate(tmp_path)


def test_a_conversation_is_rendered_by_the_models_template(tokenizer, directory):
    plain = Tokenizer.from_file(str(directory / "tokenizer.json"))
    text = plain.decode(tokenizer.encode(TURNS, 0), skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi äö 🙂<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_gets_the_names_that_transformers_gives(tmp_path):
    template = template_of(
        tmp_path,
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ m | tojson }}{% endfor %}{{ eos_token }}{{ strftime_now('%Y') | length }}{{ tools is none }}",
    )
    assert template.render([ChatMessage("user", "ä"), ChatMessage("user", "b")]) == (
        '<s>{"role": "user", "content": "ä"}</s>4True'
    )


def test_a_separate_template_file_and_a_list_of_templates(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "listed"}]
    assert template_of(tmp_path, named).render(TURNS) == "listed"
    (tmp_path / "chat_template.jinja").write_text("separate")
    assert template_of(tmp_path, named).render(TURNS) == "separate"


def test_what_the_template_refuses_is_a_prompt_error(tmp_path):
    template = template_of(tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(PromptError, match="roles must alternate"):
        template.render(TURNS)


def test_a_template_cannot_leave_the_sandbox(tmp_path):
    template = template_of(tmp_path, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(PromptError, match="unsafe"):
        template.render(TURNS)


def test_a_damaged_template_is_named(tmp_path):
    with pytest.raises(DamagedFileError, match="template"):
        template_of(tmp_path, "{% for %}")


def test_a_model_without_a_template_gets_the_plain_text(tmp_path):
    assert template_of(tmp_path, None).render(TURNS) == "Be kind.\n\nHi äö 🙂"


def test_end_tokens_come_from_all_files(directory, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": 5}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert ModelTokenizer(tmp_path, read_config(tmp_path)).end_tokens == {5, 6, 7, 257}


def test_an_end_token_finishes_and_is_not_shown(tokenizer, directory):
    plain = Tokenizer.from_file(str(directory / "tokenizer.json"))
    stream = tokenizer.text(Sampling())
    steps = [stream.push(token) for token in [*plain.encode("ok").ids, plain.token_to_id("<|im_end|>")]]
    assert [(step.text, step.finish) for step in steps] == [("o", ""), ("k", ""), ("", "stop")]


def test_incomplete_utf8_is_held_back_and_released_at_the_end(tokenizer, directory):
    smile = Tokenizer.from_file(str(directory / "tokenizer.json")).encode("🙂").ids
    assert len(smile) == 4
    stream = tokenizer.text(Sampling())
    assert [stream.push(token).text for token in smile] == ["", "", "", "🙂"]
    cut = tokenizer.text(Sampling(max_tokens=3))
    steps = [cut.push(token) for token in smile[:3]]
    assert [step.finish for step in steps] == ["", "", "length"]
    assert set("".join(step.text for step in steps)) == {"\ufffd"}


def test_a_stop_string_is_found_across_tokens(tokenizer, directory):
    ids = Tokenizer.from_file(str(directory / "tokenizer.json")).encode("one\n🙂 two").ids
    stream = tokenizer.text(Sampling(stop=("\n🙂",)))
    steps = [stream.push(token) for token in ids]
    assert "".join(step.text for step in steps) == "one"
    assert [step.finish for step in steps].index("stop") == 7


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40))
def test_streamed_text_is_the_text_of_all_tokens(tokenizer, directory, ids):
    plain = Tokenizer.from_file(str(directory / "tokenizer.json"))
    stream = tokenizer.text(Sampling(max_tokens=10_000))
    text = "".join(stream.push(token).text for token in [*ids, 257])
    assert text == plain.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def real(smollm2_directory):
    path = smollm2_directory / "tokenizer.json"
    return ModelTokenizer(smollm2_directory, read_config(smollm2_directory)), Tokenizer.from_file(str(path))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_streamed_text_of_the_real_tokenizer_is_the_text(real, text):
    tokenizer, plain = real
    ids = [token for token in plain.encode(text).ids if token not in tokenizer.end_tokens]
    stream = tokenizer.text(Sampling(max_tokens=10_000))
    shown = "".join(stream.push(token).text for token in [*ids, min(tokenizer.end_tokens)])
    assert shown == plain.decode(ids, skip_special_tokens=True)
