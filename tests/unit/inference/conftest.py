"""Tiny random models as transformers saves them, and a driver that plays the node daemons' part."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from qaicl.inference.engine import Sampling, Work
from qaicl.inference.torch_engine import TorchEngine

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
VOCABULARY = 272
GREEDY = Sampling()


def save_tokenizer(directory: Path) -> None:
    """One token a byte, and the two marks of a ChatML turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: at for at, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"chat_template": CHATML, "eos_token": {"content": "<|im_end|>"}, "bos_token": None}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 257,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}
CONFIGURATIONS = {
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2-untied-yarn": ("Qwen2", {"tie_word_embeddings": False, "rope_parameters": YARN}),
    "qwen3-tied-wide-heads": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    "qwen3-untied": ("Qwen3", {"tie_word_embeddings": False, "head_dim": 16, "num_key_value_heads": 1}),
    "llama-untied-biases": (
        "Llama",
        {"tie_word_embeddings": False, "rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-tied-no-groups": (
        "Llama",
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
        },
    ),
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A function from a configuration's name to (directory, transformers model)."""
    import transformers

    made = {}

    def make(name):
        if name not in made:
            family, values = CONFIGURATIONS[name]
            config = getattr(transformers, f"{family}Config")(**{**SHAPE, **values})
            torch.manual_seed(7)
            model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 1:  # transformers starts biases at 0 and norms at 1, which would hide faults
                        parameter.add_(torch.randn_like(parameter) * 0.2)
            directory = tmp_path_factory.mktemp(name)
            model.save_pretrained(directory)
            save_tokenizer(directory)
            made[name] = directory, model
        return made[name]

    return make


@pytest.fixture
def make_engine(tmp_path):
    def make(directory, **changes):
        arguments = {
            "model": "m",
            "precision": "float32",
            "threads": 1,
            "max_tasks": 16,
            "memory_limit": None,
            "cache_dir": tmp_path / "cache",
        }
        return TorchEngine(directory, **(arguments | changes))

    return make


class Recorder:
    """Stands before an engine's head and keeps the logits it makes."""

    def __init__(self, engine):
        self.rows = []
        self._head = engine._head
        self.nbytes = engine._head.nbytes
        engine._head = self

    def __call__(self, x):
        logits = self._head(x)
        self.rows.extend(logits.clone().numpy())
        return logits


class Pipeline:
    """One request on stages, each on an engine of its own or all on one.

    Args:
        engines: one, or as many as stages.
        bounds: the first layer of every stage but the first.
    """

    def __init__(self, engines, bounds, prompt, *, sampling=GREEDY, task="t", capacity=256):
        layers = engines[0].info.layers
        starts, ends = [0, *bounds], [*bounds, layers]
        self.stages = []
        self.prompt = list(prompt)
        for at, (first, after) in enumerate(zip(starts, ends, strict=True)):
            engine = engines[at % len(engines)]
            name = f"{task}-{at}"
            engine.load(first, after - 1)
            engine.open(name, first, after - 1, capacity, sampling, prompt)
            self.stages.append((engine, name))

    def push(self, start, tokens, sample=True):
        hidden = None
        for engine, name in self.stages:
            work = Work(name, start, tokens=() if hidden else tuple(tokens), hidden=hidden, sample=sample)
            (result,) = engine.step([work])
            assert result.error == ""
            hidden = result.hidden
        return result.token

    def generate(self, count):
        made = [self.push(0, self.prompt)]
        while len(made) < count:
            made.append(self.push(len(self.prompt) + len(made) - 1, made[-1:]))
        return made


@torch.inference_mode()
def reference(model, prompt, count):
    """Greedy tokens of transformers and the logits each was chosen from, [count, vocabulary]."""
    tokens, rows, past = [], [], None
    ids = torch.tensor([list(prompt)])
    for _ in range(count):
        done = model(ids, past_key_values=past, use_cache=True)
        past = done.past_key_values
        rows.append(done.logits[0, -1].numpy().copy())
        tokens.append(int(np.argmax(rows[-1])))
        ids = torch.tensor([tokens[-1:]])
    return tokens, np.stack(rows)


@pytest.fixture(scope="session", name="on_stages")
def _pipeline():
    return Pipeline


@pytest.fixture(scope="session", name="record")
def _recorder():
    return Recorder


@pytest.fixture(scope="session", name="reference")
def _reference():
    return reference
