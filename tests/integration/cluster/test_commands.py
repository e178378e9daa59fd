"""The command line without a cluster, with a damaged one, and when it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qaicl import settings
from qaicl.daemon import processes
from qaicl.wire import keys
from tests.integration.cluster.conftest import wait_for


@pytest.fixture
def home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="qaicl-"))
    yield directory
    run(directory, "down")
    shutil.rmtree(directory)


def run(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ) | {"QAICL_HOME": str(home)} | environ
    command = [sys.executable, "-m", "qaicl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=90, check=False)


def pids(home: Path) -> list[int]:
    return [entry.pid for entry in processes.known(home / "state/contexts/default/daemons")]


def test_no_cluster_up_is_exit_code_4_and_says_what_to_run(home: Path) -> None:
    for command in (["ask", "hello"], ["status"], ["node", "list"], ["plan"]):
        done = run(home, *command)
        assert done.returncode == 4, done
        assert "qaicl up" in done.stderr
        assert done.stdout == ""


def test_errors_are_json_where_json_is_asked_for(home: Path) -> None:
    done = run(home, "status", "-o", "json")
    assert done.returncode == 4
    assert set(json.loads(done.stderr)) == {"error", "what", "why", "fix", "exit_code"}


def test_usage_errors_are_exit_code_2(home: Path) -> None:
    assert run(home, "ask", "").returncode == 2
    assert run(home, "ask").returncode == 2
    assert run(home, "ask", "x", "--mode", "sideways").returncode == 2
    assert run(home, "ask", "x", "--no-such-option").returncode == 2
    assert run(home, "ask", "x", "--temperature", "nan").returncode == 2
    assert run(home, "--context", "../x", "status").returncode == 2


def test_up_is_safe_to_repeat_and_down_leaves_nothing(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "2").returncode == 0
    running = pids(home)
    again = run(home, "up", "--model", "echo", "-o", "json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["started"] == []
    assert pids(home) == running
    other = run(home, "up", "--model", "smollm2-135m", QAICL_MODELS_DIRECTORY=str(home / "models"))
    assert "with model echo runs already" in other.stderr
    assert not (home / "models").exists()  # what is refused is not downloaded first
    done = run(home, "down")
    assert done.returncode == 0
    for name in ("node-1", "node-2", "orch-1", "orch-2", "valkey"):
        assert name in done.stdout
    assert_nothing_left(home, running)
    assert run(home, "down").returncode == 0


def test_down_cleans_up_after_everything_was_killed(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "1").returncode == 0
    running = pids(home)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    assert run(home, "down").returncode == 0
    assert_nothing_left(home, running)


def zombie(pid: int) -> bool:
    """Ended, and only waiting for its adoptive parent to notice."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_nothing_left(home: Path, running: list[int]) -> None:
    wait_for(lambda: not any(psutil.pid_exists(pid) and not zombie(pid) for pid in running))
    assert pids(home) == []
    left = [path for path in home.rglob("*") if path.is_socket() or path.suffix in (".pid", ".tmp")]
    assert left == []
    assert not (home / "config/contexts/default/endpoints.toml").exists()


def test_doctor_finds_a_dead_node_and_says_what_to_do(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "2").returncode == 0
    assert run(home, "doctor", QAICL_CLUSTER_MODEL="echo").returncode == 0
    entry = next(entry for entry in processes.known(home / "state/contexts/default/daemons") if entry.name == "node-2")
    os.kill(entry.pid, signal.SIGKILL)
    done = wait_for(
        lambda: (found := run(home, "doctor", "-o", "json", QAICL_CLUSTER_MODEL="echo")).returncode and found
    )
    wrong = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert "node-2" in {check["check"] for check in wrong}
    assert all(check["fix"] for check in wrong)


def test_a_taken_port_is_a_clear_error(home: Path) -> None:
    loaded = settings.load(None, environ={"QAICL_HOME": str(home)})
    keys.make_keypair(loaded.paths.context("default") / "keys", "orch-9")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run(home, "daemon", "orchestrator", "--name", "orch-9", "--bind", bind)
    assert done.returncode == 1
    assert "another process listens there" in done.stderr


def test_a_daemon_without_its_key_is_not_authorised(home: Path) -> None:
    done = run(home, "daemon", "node", "--name", "nobody", "--bind", "tcp://127.0.0.1:0", QAICL_CLUSTER_MODEL="echo")
    assert done.returncode == 5
    assert "nobody.key_secret" in done.stderr


def test_secret_keys_are_never_readable_by_others(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "1", "--orchestrators", "1").returncode == 0
    directory = home / "config/contexts/default/keys"
    secrets = list(directory.glob("*.key_secret"))
    assert len(secrets) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)
    (directory / "client.key_secret").chmod(0o644)
    done = run(home, "status")
    assert done.returncode == 5
    assert "chmod 600" in done.stderr


def test_an_interrupted_ask_says_how_to_go_on(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "1", QAICL_ECHO_DELAY_MS="20").returncode == 0
    env = dict(os.environ) | {"QAICL_HOME": str(home)}
    command = [sys.executable, "-m", "qaicl", "ask", "tell me", "--max-tokens", "150"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as asking:
        assert asking.stdout is not None and asking.stderr is not None
        assert asking.stdout.read(10)
        asking.send_signal(signal.SIGINT)
        assert asking.wait(10) == 130
        told = asking.stderr.read()
    request = told.split("--resume ")[1].split()[0]
    done = run(home, "ask", "--resume", request, "-o", "json")
    assert len(json.loads(done.stdout)["token_ids"]) == 150


def test_a_cluster_without_a_node_refuses_clearly_and_serves_again_when_one_is_back(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "1").returncode == 0
    entry = next(entry for entry in processes.known(home / "state/contexts/default/daemons") if entry.name == "node-1")
    os.kill(entry.pid, signal.SIGKILL)
    done = run(home, "ask", "hello", "--max-tokens", "3")
    assert done.returncode == 1
    assert "no node can serve" in done.stderr and "qaicl status" in done.stderr
    assert run(home, "up").returncode == 0
    assert run(home, "ask", "hello", "--max-tokens", "3").returncode == 0


def test_up_mends_the_file_that_says_where_the_cluster_is(home: Path) -> None:
    assert run(home, "up", "--model", "echo", "--nodes", "1").returncode == 0
    (home / "config/contexts/default/endpoints.toml").write_text("half a li")
    done = run(home, "ask", "hello")
    assert done.returncode == 2 and "qaicl up" in done.stderr
    assert run(home, "up").returncode == 0
    assert run(home, "ask", "hello", "--max-tokens", "3").returncode == 0


def test_an_interrupted_first_up_can_be_repeated(home: Path) -> None:
    env = dict(os.environ) | {"QAICL_HOME": str(home)}
    command = [sys.executable, "-m", "qaicl", "up", "--model", "echo", "--nodes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as starting:
        wait_for(lambda: len(pids(home)) >= 2)
        starting.kill()
    assert run(home, "up", "--model", "echo", "--nodes", "2").returncode == 0
    assert run(home, "ask", "hello", "--max-tokens", "3").returncode == 0
