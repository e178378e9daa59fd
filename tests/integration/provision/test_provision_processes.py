"""An operator at a terminal or one who gives up, a controller that is killed; and no secret where it can be read."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pretend import Machine, Operator, wait_until

from qaicl import settings
from qaicl.errors import HostRefusedError
from qaicl.provision import inventory
from qaicl.provision.inventory import Host
from qaicl.provision.provisioning import Choice, Provisioning

NOTE = {"name": "Note", "file": {"path": "/opt/note", "content": "new\n"}}
LONG = {
    "name": "Long",
    "command": {
        "run": "touch /opt/begun; until [ -e /opt/go ]; do sleep 0.02; done; touch /opt/ended",
        "unless": "test -e /opt/ended",
    },
}


class Terminal:
    """Runs a command on a terminal of its own, and answers its questions."""

    def __init__(self, operator: Operator, *line: str) -> None:
        self._here, there = pty.openpty()
        self.text = ""
        self.process = operator.start(*line, stdin=there, stdout=there, stderr=there, start_new_session=True)
        os.close(there)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._here, 4096)
            except OSError:  # the other end is closed
                return
            self.text += data.decode("utf-8", "replace")

    def answer(self, question: str, answer: str) -> None:
        wait_until(lambda: question in self.text or self.process.poll() is not None, 60)
        assert question in self.text, self.text
        os.write(self._here, answer.encode() + b"\n")

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        os.close(self._here)
        return code


def _fingerprint(machine: Machine) -> str:
    line = subprocess.run(
        ["ssh-keygen", "-lf", str(machine.keys.host)], capture_output=True, text=True, check=True
    ).stdout
    return line.split()[1]


# --- at a terminal -----------------------------------------------------------------------------------------


def test_a_fingerprint_is_shown_once_and_what_was_confirmed_counts(
    operator: Operator, machines: Callable[[str], Machine]
) -> None:
    on, off = machines("a"), machines("b")
    off.stop()
    operator.describe(on, off, a={"host_key": None}, b={"host_key": None})
    operator.playbook(NOTE)
    pinned = operator.private / "host_keys" / "a"

    terminal = Terminal(operator, "apply")
    terminal.answer("Is that the machine's fingerprint?", "y")
    terminal.answer("Make 1 changes on 1 machines?", "n")
    assert terminal.end() == 130
    assert f"a ({on.address}:{on.port}) has no pinned host key. It shows {_fingerprint(on)}" in terminal.text
    assert "site/note" in terminal.text
    assert "nothing was changed" in terminal.text
    assert not on.at("/opt/note").exists()
    assert pinned.read_text().strip() == on.host.host_key
    assert pinned.stat().st_mode & 0o777 == 0o600

    later = operator("plan", "--limit", "a")  # off a terminal, and nobody is asked
    assert (later.code, "fingerprint" in later.err) == (3, False)

    config = on.root / "config"
    config.write_text(config.read_text().replace(str(on.keys.host), str(on.keys.other)))
    on.stop()
    on.start()
    changed = operator("plan", "--limit", "a")
    assert (changed.code, "another host key" in changed.err) == (5, True)


def test_a_fingerprint_that_is_not_confirmed_is_not_pinned_and_nobody_logs_in(
    operator: Operator, machine: Machine
) -> None:
    operator.describe(machine, a={"host_key": None})
    shown: list[str] = []

    def no(host: Host, fingerprint: str) -> bool:
        shown.append(fingerprint)
        return False

    made = Provisioning(
        inventory.load(operator.inventory), settings.load(None), lambda event: None, lambda text: None, confirm_key=no
    )
    with pytest.raises(HostRefusedError, match="was not confirmed"), made.session(Choice(), locked=False):
        pass
    assert shown == [_fingerprint(machine)]
    assert not (operator.private / "host_keys").exists()
    assert "Accepted publickey" not in machine.log


def test_a_password_is_asked_for_where_sudo_wants_one_and_not_shown(operator: Operator, machine: Machine) -> None:
    machine.sudo("correct horse battery")
    operator.describe(machine, a={"user": "op"}, secrets={"sudo_password": "prompt"})
    operator.playbook(NOTE)
    terminal = Terminal(operator, "apply", "--yes", "--tags", "site")
    terminal.answer("sudo_password", "correct horse battery")
    assert terminal.end() == 0, terminal.text
    assert "correct horse" not in terminal.text
    assert machine.at("/opt/note").exists()


# --- given up, killed ----------------------------------------------------------------------------------------


def test_an_interrupt_ends_the_run_soon_and_the_next_one_goes_on(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(LONG, NOTE)
    process = operator.start("apply", "--yes", "--tags", "site", stderr=subprocess.PIPE)
    wait_until(lambda: machine.at("/opt/begun").exists(), 60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, b"Traceback" in said) == (130, False)
    assert not machine.at("/opt/note").exists()
    row = json.loads(operator("status", "-o", "json").out)["items"][0]
    assert (row["last_state"], row["last_text"]) == ("run-failed", "the run was ended by the operator")
    wait_until(lambda: json.loads(operator("status", "-o", "json").out)["items"][0]["locked_by"] == "")


def test_a_controller_that_is_killed_leaves_no_lock_and_no_half_step(operator: Operator, machine: Machine) -> None:
    operator.describe(machine)
    operator.playbook(LONG, NOTE)
    process = operator.start("apply", "--yes", "--tags", "site", stderr=subprocess.DEVNULL)
    wait_until(lambda: machine.at("/opt/begun").exists(), 60)
    process.kill()
    process.wait(10)
    row = json.loads(operator("status", "-o", "json").out)["items"][0]
    assert (row["last_state"], row["last_step"]) == ("interrupted", "site/long")
    wait_until(lambda: not machine.at("/var/lib/qaicl-provision/holder").exists())
    machine.at("/opt/go").touch()
    assert operator("apply", "--yes", "--tags", "site").code == 0
    assert machine.at("/opt/note").exists()
    assert operator("plan").code == 0


# --- secrets -------------------------------------------------------------------------------------------------

SUDO, GIVEN, FILED = "sudo-passw0rd-2718", "from-the-environment-3141", "from-a-file-1618"


class Listener:
    """Reads every process's command line and environment, again and again, as an attacker on the machine would."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _listen(self) -> None:
        own = str(os.getpid())
        while not self._end.wait(0.02):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit() and entry.name != own:
                    try:
                        self.seen |= {Path(entry.path, name).read_bytes() for name in ("cmdline", "environ")}
                    except OSError:
                        continue  # it has ended


def test_secrets_reach_the_machine_and_nobody_else(
    operator: Operator, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIVEN", GIVEN)
    files = {"sudo": SUDO, "filed": FILED}
    for name, text in files.items():
        (operator.home / name).write_text(text)
        (operator.home / name).chmod(0o600)
    references = {
        "sudo_password": f"file:{operator.home}/sudo",
        "given": "env:GIVEN",
        "filed": f"file:{operator.home}/filed",
    }
    machine.sudo(SUDO)
    operator.describe(machine, a={"user": "op"}, secrets=references)
    operator.playbook(
        {
            "name": "File",
            "file": {"path": "/opt/secret", "content": "{{ secrets.filed }}", "mode": "0600", "secret": True},
        },
        {
            "name": "Told to a program",
            "command": {
                "run": "sleep 0.1; cat > /opt/told; sleep 0.1; echo it said $(cat /opt/told) >&2; exit 1",
                "unless": "false",
                "stdin": "{{ secrets.given }}",
            },
        },
    )
    plan = operator.home / "plan.json"
    with Listener() as listener:
        said = [operator("plan", "--save", plan), operator("plan", "-o", "json")]
        said += [operator("apply", plan, "--yes"), operator("apply", "--yes", "-o", "json")]
    assert [done.code for done in said] == [3, 3, 1, 1]
    assert machine.at("/opt/secret").read_text() == FILED
    assert machine.at("/opt/secret").stat().st_mode & 0o777 == 0o600
    assert machine.at("/opt/told").read_text() == GIVEN
    assert "it said <secret given>" in said[2].err
    assert any(b"sleep" in line for line in listener.seen)  # it did look while the steps ran

    texts = [text for done in said for text in (done.out, done.err)]
    texts += [path.read_text() for path in operator.journals.iterdir()]
    texts += [plan.read_text(), machine.log, (machine.root / "run/sudo.log").read_text()]
    for secret in (SUDO, GIVEN, FILED):
        assert not any(secret in text for text in texts), secret
        holders = [line for line in listener.seen if secret.encode() in line and b"GIVEN=" not in line]
        assert holders == [], secret
    state = machine.at("/var/lib/qaicl-provision")
    assert not any(SUDO in path.read_text() for path in state.iterdir() if path.is_file())
