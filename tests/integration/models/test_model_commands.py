import json
import os
import pty
import subprocess
import sys

import pytest

from qaicl.cli import main

HEAVY = ("torch", "transformers", "pandas", "textual", "redis", "gguf", "httpx", "numpy", "rich.progress")


@pytest.fixture
def command(installation, monkeypatch, capsys):
    """Runs ``qaicl model ...`` on an installation that has ``tiny``; gives exit code, stdout and stderr."""
    home = installation()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["qaicl", "model", *arguments])
        code = main.run(["model", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    run.home = home
    return run


def items(text):
    document = json.loads(text)
    assert document["version"] == 1
    return {item["name"]: item for item in document["items"]}


def test_list_shows_the_catalogue_and_what_is_here(command):
    code, out, _ = command("list", "-o", "json")
    assert code == 0
    assert {name: item["state"] for name, item in items(out).items()} == {
        "deepseek-r1-distill-qwen-1.5b": "missing",
        "smollm2-135m": "missing",
        "all-minilm-l6-v2": "missing",
        "tiny": "missing",
    }
    command("pull", "tiny")
    assert items(command("list", "-o", "json")[1])["tiny"]["state"] == "here"
    code, out, _ = command("list")
    assert any("tiny" in line and "here" in line and "3 MB" in line for line in out.splitlines())


def test_pull_tells_stderr_and_keeps_stdout_for_data(command):
    code, out, err = command("pull", "tiny", "-o", "json")
    assert code == 0
    assert items(out)["tiny"]["digest"] == command.home.store.manifest("tiny").digest
    assert err == "tiny is here, verified: 3 MB\n"


def test_a_dry_run_says_what_would_be_fetched_and_changes_nothing(command, hub):
    code, out, _ = command("pull", "--dry-run", "tiny")
    assert code == 0
    assert "model.safetensors  3 MB" in out
    assert not command.home.store.directory.exists()
    assert hub.sent("model.safetensors") == 0
    files = items(command("pull", "--dry-run", "tiny", "-o", "json")[1])["tiny"]["files"]
    assert {file["name"] for file in files} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert all(file["missing"] == file["size"] > 0 for file in files)
    command("pull", "tiny")
    assert "nothing to fetch" in command("pull", "--dry-run", "tiny")[1]


def test_verify_names_the_damage_and_fails(command):
    command("pull", "tiny")
    assert command("verify")[:2] == (0, "tiny: whole\n")
    path = command.home.store.path("tiny") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, out, err = command("verify", "tiny")
    assert code == 1
    assert out == "tiny: model.safetensors has other content\n"
    assert "qaicl model pull tiny" in err
    code, out, _ = command("verify", "-o", "json")
    assert code == 1
    assert items(out)["tiny"]["whole"] is False
    assert command("pull", "tiny")[0] == 0
    assert command("verify", "tiny")[0] == 0


def test_verify_of_a_model_that_is_not_here(command):
    code, _, err = command("verify", "tiny")
    assert code == 1
    assert "qaicl model pull tiny" in err


def test_an_unknown_model_exits_2_with_the_closest_name(command):
    code, _, err = command("pull", "tinny")
    assert code == 2
    assert "did you mean 'tiny'?" in err


def test_a_wrong_catalogue_entry_exits_2_and_names_the_file(command):
    path = command.home.settings.paths.config / "models.toml"
    path.write_text('[[model]]\nname = "tiny"\n')
    code, _, err = command("list")
    assert code == 2
    assert f"model 'tiny' in {path} does not fit" in err
    assert "source" in err


def test_errors_are_json_where_json_was_asked_for(command, hub):
    hub.fail(f"/revision/{command.home.model.source.partition('@')[2]}", {"status": 401})
    code, out, err = command("pull", "tiny", "-o", "json")
    assert code == 5
    assert out == ""
    assert json.loads(err)["error"] == "DownloadRefusedError"


def test_a_terminal_sees_progress(command):
    seen, terminal = pty.openpty()
    environ = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-m", "qaicl", "model", "pull", "tiny"], env=environ, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(seen, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end has closed
        pass
    os.close(seen)
    assert process.wait(30) == 0
    assert b"model.safetensors" in shown
    assert b"tiny is here" in shown


def test_the_commands_module_imports_nothing_heavy():
    code = f"import sys, qaicl.cli.model; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
