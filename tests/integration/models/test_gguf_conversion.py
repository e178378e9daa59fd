"""What a pull makes of a GGUF file against what ``transformers`` makes of the same file."""

import functools
import json
import tracemalloc
import warnings
from pathlib import Path

import filelock
import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from qaicl.errors import DamagedFileError, UnsupportedModelError
from qaicl.models import catalogue
from qaicl.models.download import Downloader, client
from qaicl.models.gguf_convert import convert
from qaicl.models.progress import silent
from qaicl.models.sources import open_source

WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2
VOCABULARY = 259
Kind = gguf.GGMLQuantizationType
TEXTS = [
    "",
    "The quick brown fox jumps over the lazy dog.",
    "  two  spaces\tand a tab\n\n\nthree lines ",
    "I'll say it's 3.14159, not 2,718.28!",
    "Größe, naïveté, Ελληνικά, русский, العربية",
    "漢字とかな、繁體中文與简体中文。",
    "👩‍👩‍👧‍👦 family 🙂🙃 flags 🇹🇼🇩🇪",
    "def f(x):\n    return {'a': x ** 2}  # comment\n",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "\u200bzero\u00a0width\u2028separators",
]
CHATS = [
    [{"role": "user", "content": "Why is the sky blue? 天空為什麼是藍色的？"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "bye 🙂"},
    ],
]


@pytest.fixture(scope="session")
def smollm2_gguf(smollm2_directory):
    """The GGUF file that the shared SmolLM2 was made from, kept beside it."""
    folder = smollm2_directory.parent / ".gguf"
    model = catalogue.load()["smollm2-135m"]
    path = folder / model.files[0].path
    folder.mkdir(exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        if not path.exists():
            partial, into = folder / "partial", folder / "into"
            partial.mkdir(exist_ok=True)
            into.mkdir(exist_ok=True)
            for left in into.iterdir():
                left.unlink()
            with client() as http:
                open_source(model, hub="", token="", downloader=Downloader(http)).fetch(partial, into, silent)
            (into / path.name).rename(path)
    return path


@pytest.fixture(scope="session")
def smollm2_tensors(smollm2_gguf):
    """The same file's tensors, byte for byte, without the vocabulary that transformers spends half a minute on."""
    path = smollm2_gguf.with_suffix(".tensors.gguf")
    with filelock.FileLock(smollm2_gguf.parent / "lock"):
        if not path.exists():
            reader = gguf.GGUFReader(smollm2_gguf)
            half = path.with_suffix(".half")
            writer = gguf.GGUFWriter(half, "llama")
            for key, known in reader.fields.items():
                scalar = len(known.types) == 1 and key != "general.architecture" and not key.startswith("GGUF.")
                if scalar and (key.endswith("_id") or not key.startswith("tokenizer.")):
                    writer.add_key_value(key, known.contents(), known.types[0])
            for tensor in reader.tensors:
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            half.rename(path)
    return path


def reference(path, config):
    """Weights as transformers loads them from the GGUF file."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        # A pure function that transformers calls once a submodule; uncached it takes most of the test's time.
        patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, config=config, dtype=torch.float32
        )
    return model.state_dict()


def assert_same_weights(directory, expected, tied):
    with safe_open(directory / "model.safetensors", framework="pt") as ours:
        names = set(ours.keys())
        assert names == set(expected) - ({"lm_head.weight"} if tied else set())
        for name in names:
            tensor = ours.get_tensor(name)
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, expected[name]), name


def assert_same_config(directory, expected):
    ours, theirs = AutoConfig.from_pretrained(str(directory)).to_dict(), expected.to_dict()
    about_the_file = {"architectures", "dtype", "quantization_config", "_name_or_path", "_model_name_or_path"}
    about_the_file |= {"unk_token_id"}  # the tokenizer's, and no model's
    assert ours["dtype"] in ("float32", torch.float32)
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert differing <= about_the_file, {key: (ours.get(key), theirs.get(key)) for key in differing - about_the_file}


@pytest.mark.timeout(400)  # twelve seconds of computing: minutes where many share the machine
def test_smollm2_equals_what_transformers_loads(smollm2_directory, smollm2_tensors):
    config = AutoConfig.from_pretrained(str(smollm2_tensors.parent), gguf_file=smollm2_tensors.name)
    assert_same_weights(smollm2_directory, reference(smollm2_tensors, config), tied=True)
    assert_same_config(smollm2_directory, config)


def test_smollm2s_tokenizer_equals_what_transformers_loads(smollm2_directory, smollm2_gguf):
    theirs = PreTrainedTokenizerFast.from_pretrained(str(smollm2_gguf.parent), gguf_file=smollm2_gguf.name)
    plain = Tokenizer.from_file(str(smollm2_directory / "tokenizer.json"))
    ours = PreTrainedTokenizerFast.from_pretrained(str(smollm2_directory))
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert plain.encode(text).ids == ids, text
        assert ours(text).input_ids == ids, text
        assert plain.decode(ids, skip_special_tokens=False) == text
    for chat in CHATS:
        for asking in (True, False):
            wanted = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=asking)
            assert ours.apply_chat_template(chat, tokenize=False, add_generation_prompt=asking) == wanted
    assert (ours.eos_token, ours.bos_token, ours.pad_token) == (theirs.eos_token, theirs.bos_token, theirs.pad_token)


def write_gguf(
    path, family, *, kinds=(gguf.GGMLQuantizationType.F16,), tied=False, rows=VOCABULARY, extra=(), tensors=()
):
    """A small model of random weights with the family's shape; ``kinds`` are given to its matrices in turn."""
    draw = np.random.default_rng(11)
    writer = gguf.GGUFWriter(path, family)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    # transformers takes a Qwen3 head to be 128 wide, whatever the file says.
    head = 128 if family == "qwen3" else WIDTH // HEADS
    writer.add_rope_dimension_count(head)
    if family == "qwen3":
        writer.add_key_length(head)
    for key, value in extra:
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    tokens = ["<|end|>", *sorted(ByteLevel.alphabet()), "ab", "abc"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    number = 0

    def matrix(name, height, width):
        nonlocal number
        kind = kinds[number % len(kinds)]
        number += 1
        values = draw.standard_normal((height, width), dtype=np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def vector(name, size):
        writer.add_tensor(name, draw.standard_normal(size, dtype=np.float32))

    inner_q, inner_kv = head * HEADS, head * KV_HEADS
    matrix("token_embd.weight", rows, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            vector(f"{block}.{name}.weight", WIDTH)
        for name, height, width in (
            ("attn_q", inner_q, WIDTH),
            ("attn_k", inner_kv, WIDTH),
            ("attn_v", inner_kv, WIDTH),
            ("attn_output", WIDTH, inner_q),
            ("ffn_gate", INNER, WIDTH),
            ("ffn_up", INNER, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ):
            matrix(f"{block}.{name}.weight", height, width)
        if family == "qwen2":
            for name, size in (("attn_q", inner_q), ("attn_k", inner_kv), ("attn_v", inner_kv)):
                vector(f"{block}.{name}.bias", size)
        if family == "qwen3":
            for name in ("attn_q_norm", "attn_k_norm"):
                vector(f"{block}.{name}.weight", head)
    vector("output_norm.weight", WIDTH)
    if not tied:
        matrix("output.weight", rows, WIDTH)
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("family", "tied", "kinds"),
    [
        ("llama", False, (Kind.F32, Kind.F16)),
        ("llama", True, (Kind.Q8_0, Kind.Q4_1, Kind.Q5_0)),
        ("qwen2", False, (Kind.Q8_0, Kind.F16)),
        ("qwen3", True, (Kind.BF16, Kind.Q4_0)),
    ],
)
def test_every_family_equals_what_transformers_loads(tmp_path, family, tied, kinds):
    path = write_gguf(tmp_path / "tiny.gguf", family, kinds=kinds, tied=tied)
    into = tmp_path / "into"
    into.mkdir()
    convert(path, into, silent)
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    assert_same_weights(into, reference(path, config), tied)
    assert_same_config(into, config)
    assert json.loads((into / "config.json").read_text())["tie_word_embeddings"] is tied


def test_a_gguf_file_lands_as_a_model_without_the_gguf(tmp_path, installation):
    path = write_gguf(tmp_path / "tiny.gguf", "qwen2")
    home = installation(source=f"file:{path}", family="qwen2")
    landed = home.pull()
    directory = home.store.open("tiny")
    assert set(landed.files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not list(directory.glob("*.gguf"))
    assert path.exists()
    assert landed.digest == installation(source=f"file:{path}", family="qwen2").pull().digest


def test_converting_holds_slices_and_not_the_model(tmp_path):
    rows = 400_000
    path = write_gguf(tmp_path / "tiny.gguf", "qwen2", rows=rows)
    into = tmp_path / "into"
    into.mkdir()
    tracemalloc.start()
    try:
        convert(path, into, lambda step: tracemalloc.reset_peak() if step.done == 0 else None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (into / "model.safetensors").stat().st_size
    assert size > 2 * rows * WIDTH * 4
    assert peak < size / 3


@pytest.mark.parametrize("left", [3, 40, 5000, 100_000])
def test_a_cut_off_file_is_damaged(tmp_path, left):
    path = write_gguf(tmp_path / "tiny.gguf", "llama")
    data = path.read_bytes()
    assert len(data) > left
    path.write_bytes(data[:left])
    with pytest.raises(DamagedFileError, match=r"tiny\.gguf is damaged or not a GGUF file"):
        convert(path, tmp_path, silent)


def test_a_file_that_is_no_gguf(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"<html>" + bytes(5000))
    with pytest.raises(DamagedFileError, match="not a GGUF file"):
        convert(path, tmp_path, silent)


def test_random_damage_is_an_error_that_says_so_and_never_a_crash(tmp_path):
    data = write_gguf(tmp_path / "tiny.gguf", "llama").read_bytes()
    draw = np.random.default_rng(5)
    for number in range(40):
        changed = bytearray(data)
        for position in draw.integers(0, 3000, size=8):
            changed[position] = int(draw.integers(0, 256))
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tiny.gguf").write_bytes(changed)
        try:
            convert(folder / "tiny.gguf", folder, silent)
        except (DamagedFileError, UnsupportedModelError):
            continue


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "gptneox"}, "architecture 'gptneox'"),
        ({"family": "llama", "extra": [("llama.expert_count", 8)]}, "mixture of experts"),
        ({"family": "llama", "extra": [("llama.rope.scaling.type", "yarn")]}, "scaled rotary"),
        ({"family": "llama", "tensors": [("rope_freqs.weight", np.ones(8, np.float32))]}, "scaled rotary"),
        ({"family": "llama", "tensors": [("blk.0.attn_q.bias", np.ones(WIDTH, np.float32))]}, r"blk\.0\.attn_q\.bias"),
        ({"family": "llama", "tensors": [("blk.7.attn_norm.weight", np.ones(WIDTH, np.float32))]}, r"blk\.7"),
        ({"family": "llama", "tensors": [("vision.weight", np.ones(4, np.float32))]}, r"vision\.weight"),
    ],
)
def test_what_would_give_wrong_answers_is_refused(tmp_path, change, reason):
    path = write_gguf(tmp_path / "tiny.gguf", **change)
    with pytest.raises(UnsupportedModelError, match=reason):
        convert(path, tmp_path, silent)


def test_a_quantisation_that_is_not_known_is_named(tmp_path):
    writer_kinds = (Kind.F32,)
    path = write_gguf(
        tmp_path / "tiny.gguf",
        "qwen2",
        kinds=writer_kinds,
        tied=True,
        tensors=[("output.weight", np.ones((VOCABULARY, WIDTH), np.int32))],
    )
    with pytest.raises(UnsupportedModelError, match=r"output\.weight") as caught:
        convert(path, tmp_path, silent)
    assert "I32" in caught.value.why


def test_the_shared_model_was_made_from_the_listed_file(smollm2_directory, smollm2_gguf):
    recorded = json.loads(Path(smollm2_directory / "manifest.json").read_text())
    assert list(recorded["origin"]) == [smollm2_gguf.name]
