import json


def test_the_chat_model_is_stored_in_hub_form(smollm2_directory):
    described = json.loads((smollm2_directory / "config.json").read_text())
    assert described["model_type"] == "llama"
    assert described["num_hidden_layers"] == 30
    assert json.loads((smollm2_directory / "tokenizer_config.json").read_text())["chat_template"]


def test_the_similarity_model_is_stored_in_hub_form(minilm_directory):
    assert json.loads((minilm_directory / "config.json").read_text())["model_type"] == "bert"
    assert (minilm_directory / "1_Pooling" / "config.json").is_file()
