"""A real process that is stopped in the middle of a pull, and the next one that goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

HELD_AT = 1_000_000


def start(home):
    environ = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"} | home.environ
    return subprocess.Popen(
        [sys.executable, "-m", "qaicl", "model", "pull", "tiny"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)], ids=["int", "term", "kill"]
)
def test_the_next_pull_goes_on_where_the_stopped_one_was(hub, installation, tiny_files, stop, code):
    home = installation()
    size = len(tiny_files["model.safetensors"])
    hub.fail("model.safetensors", {"hold": HELD_AT})
    part = home.store.partial("tiny") / "files" / "model.safetensors.part"
    first = start(home)
    wait_for(lambda: part.exists() and part.stat().st_size == HELD_AT, first)
    first.send_signal(stop)
    said = first.communicate(timeout=30)[1]
    assert first.returncode == code, said
    if stop != signal.SIGKILL:
        assert "was interrupted" in said
        assert "go on with: qaicl model pull tiny" in said
        home.assert_nothing_landed()
    assert home.store.list() == []
    assert part.stat().st_size == HELD_AT

    second = start(home)
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 0, said
    assert home.store.verify("tiny")
    resumed = [seen for seen in hub.seen if "range" in seen.headers and seen.host == "cdn"]
    assert [seen.sent for seen in resumed] == [size - HELD_AT]
    assert not home.store.partial("tiny").exists()
