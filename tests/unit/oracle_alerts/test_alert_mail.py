"""Mail over STARTTLS with a login, against a local server with a certificate made here."""

import base64
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qaicl.errors import SettingsError, SinkError
from qaicl.oracle.alerts import mail as module
from qaicl.oracle.alerts import model
from qaicl.oracle.alerts.engine import AlertEngine
from qaicl.oracle.alerts.mail import SmtpSink
from qaicl.oracle.alerts.model import Condition, Level, Message
from qaicl.oracle.alerts.outbox import Outbox
from qaicl.oracle.alerts.sinks import WebhookSink, sinks
from qaicl.oracle.store import Store
from qaicl.settings import AlertSettings, Paths, RouteSettings, SinkSettings

sys.path.insert(0, str(Path(__file__).parent))

from alert_servers import Mailbox, certificate, http_server, smtp_server

PASSWORD = "correct horse"
MESSAGE: Message = model.test_message(datetime(2026, 1, 1, 12, 0, tzinfo=UTC))


@pytest.fixture
def mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """A server that offers STARTTLS, and AUTH, and whose certificate is trusted."""
    with smtp_server() as made:
        made.tls, trusted = certificate(tmp_path, "127.0.0.1")
        made.password = PASSWORD
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        yield made


def mail(mailbox: Mailbox, password: str = PASSWORD) -> SmtpSink:
    settings = SinkSettings(
        kind="smtp",
        host="127.0.0.1",
        port=mailbox.port,
        user="oracle",
        sender="q@example.org",
        recipients=("a@example.org",),
    )
    return SmtpSink(settings, password)


def secrets(password: str) -> tuple[str, str]:
    return password, base64.b64encode(f"\0oracle\0{password}".encode()).decode()


def test_a_mail_goes_through_starttls_and_login(mailbox: Mailbox) -> None:
    mail(mailbox).deliver(MESSAGE)
    assert ["this is a test of qaicl's alerts" in one for one in mailbox.mails] == [True]
    commands = [(encrypted, line.partition(" ")[0].upper()) for encrypted, line in mailbox.lines]
    assert commands[:4] == [(False, "EHLO"), (False, "STARTTLS"), (True, "EHLO"), (True, "AUTH")]
    assert not any(secret in mailbox.clear_text for secret in secrets(PASSWORD))


def test_a_server_without_starttls_gets_neither_the_password_nor_the_mail(mailbox: Mailbox) -> None:
    mailbox.tls = None
    with pytest.raises(SinkError, match="offers no STARTTLS") as caught:
        mail(mailbox).deliver(MESSAGE)
    assert caught.value.permanent
    assert mailbox.mails == []
    assert [line.split()[0].upper() for _, line in mailbox.lines] == ["EHLO", "QUIT"]


def test_a_certificate_that_nobody_vouches_for_gets_nothing(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SinkError, match="certificate that is not trusted") as caught:
        mail(mailbox).deliver(MESSAGE)
    assert "SSL_CERT_FILE" in caught.value.fix
    assert mailbox.mails == [] and "AUTH" not in str(mailbox.lines)


def test_another_hosts_certificate_gets_nothing(mailbox: Mailbox, tmp_path: Path) -> None:
    mailbox.tls, _ = certificate(tmp_path, "other.example")
    with pytest.raises(SinkError, match="certificate that is not trusted"):
        mail(mailbox).deliver(MESSAGE)
    assert mailbox.mails == [] and "AUTH" not in str(mailbox.lines)


def test_a_wrong_password_is_told_without_showing_it(mailbox: Mailbox) -> None:
    with pytest.raises(SinkError, match="does not let oracle log in: it answered 535") as caught:
        mail(mailbox, "wrong horse").deliver(MESSAGE)
    assert caught.value.permanent and "alerts retry" in caught.value.fix
    assert not any(secret in str(caught.value) for secret in secrets("wrong horse"))
    assert mailbox.mails == []


def test_a_login_that_fails_for_the_moment_is_tried_again(mailbox: Mailbox) -> None:
    mailbox.login_answer = "454 4.7.0 the directory is down"
    with pytest.raises(SinkError, match="454") as caught:
        mail(mailbox, "wrong horse").deliver(MESSAGE)
    assert not caught.value.permanent


def test_a_server_that_knows_no_login_is_told(mailbox: Mailbox) -> None:
    mailbox.password = ""
    with pytest.raises(SinkError, match="offers no way to log in") as caught:
        mail(mailbox).deliver(MESSAGE)
    assert caught.value.permanent and mailbox.mails == []


def test_a_wrong_password_is_tried_once_and_the_mail_comes_after_it_is_mended(mailbox: Mailbox) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    settings = AlertSettings(group_wait=0.001, routes=(RouteSettings(sinks=("mail",)),))
    rings = Condition(labels={"alert": "x"}, level=Level.info, value=1, fire_from=1, clear_below=1, summary="x")
    with Store.in_memory() as store:
        AlertEngine(store, settings).evaluate([rings], {}, start)
        AlertEngine(store, settings).tick(start + timedelta(seconds=1))
        for hours in range(1, 6):
            wrong = {"mail": mail(mailbox, "wrong horse")}
            Outbox(store, wrong, lambda hours=hours: start + timedelta(hours=hours)).deliver()
        assert sum(line.startswith("AUTH") for _, line in mailbox.lines) == 1
        (kept,) = Outbox(store, {}).waiting()
        assert kept.state == "refused" and "does not let oracle log in" in kept.reason

        mended = Outbox(store, {"mail": mail(mailbox)}, lambda: start + timedelta(hours=6))
        assert [mended.deliver().sent, mended.retry(), mended.deliver().sent] == [0, 1, 1]
    assert len(mailbox.mails) == 1


@pytest.mark.parametrize(("host", "refused"), [("mail.example.org", True), ("127.0.0.1", False), ("localhost", False)])
def test_a_password_for_another_machine_needs_starttls(tmp_path: Path, host: str, refused: bool) -> None:
    sink = SinkSettings(kind="smtp", host=host, user="o", sender="q@x", recipients=("a@x",), starttls=False)
    settings = AlertSettings(sinks={"mail": sink}, routes=())
    where = Paths(tmp_path, tmp_path, tmp_path)
    if refused:
        with pytest.raises(SettingsError, match="would send a password in the clear"):
            sinks(settings, where, "default")
    else:
        assert set(sinks(settings, where, "default")) == {"mail"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_webhook_that_does_not_know_the_token_is_not_asked_again(status: int) -> None:
    with http_server() as inbox:
        inbox.answers = [(status, {}, {})]
        with pytest.raises(SinkError, match=f"answered {status}") as caught:
            WebhookSink(inbox.url, "wrong").deliver(MESSAGE)
    assert caught.value.permanent


def test_who_has_the_mail_does_not_get_it_again_because_another_was_refused(mailbox: Mailbox) -> None:
    mailbox.unknown = {"gone@example.org"}
    both = SinkSettings(
        kind="smtp",
        host="127.0.0.1",
        port=mailbox.port,
        sender="q@example.org",
        recipients=("a@example.org", "gone@example.org"),
    )
    with pytest.raises(SinkError, match=r"refused gone@example\.org: the other recipients have the mail") as caught:
        SmtpSink(both, "").deliver(MESSAGE)
    assert caught.value.permanent and len(mailbox.mails) == 1
    with pytest.raises(SinkError, match="did not take the mail: SMTPRecipientsRefused") as nobody:
        mailbox.unknown.add("a@example.org")
        SmtpSink(both, "").deliver(MESSAGE)
    assert not nobody.value.permanent and len(mailbox.mails) == 1


@pytest.mark.parametrize(("at_most_once", "state", "mails"), [(True, "unknown", 1), (False, "pending", 2)])
def test_a_mail_whose_fate_nobody_knows_is_sent_again_or_not_as_the_settings_say(
    mailbox: Mailbox, at_most_once: bool, state: str, mails: int
) -> None:
    """The server takes the body and hangs up before it has said so."""
    mailbox.silent = True
    sink = mail(mailbox)
    sink.at_most_once = at_most_once
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rings = Condition(labels={"alert": "x"}, level=Level.info, value=1, fire_from=1, clear_below=1, summary="x")
    with Store.in_memory() as store:
        engine = AlertEngine(store, AlertSettings(group_wait=0.001, routes=(RouteSettings(sinks=("mail",)),)))
        engine.evaluate([rings], {}, start)
        engine.tick(start + timedelta(seconds=1))
        for hours in (1, 2):
            outbox = Outbox(store, {"mail": sink}, lambda hours=hours: start + timedelta(hours=hours))
            assert outbox.deliver().sent == 0
        assert [one.state for one in outbox.waiting()] == [state]
    assert len(mailbox.mails) == mails


def test_a_server_that_takes_leave_badly_has_the_mail_all_the_same(mailbox: Mailbox) -> None:
    mailbox.farewell = "421 too busy to say goodbye"
    mail(mailbox).deliver(MESSAGE)
    assert len(mailbox.mails) == 1
    with pytest.raises(SinkError, match="log in") as caught:
        mail(mailbox, "wrong horse").deliver(MESSAGE)
    assert caught.value.permanent


def test_a_mail_server_that_drips_is_cut_off(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.3)
    mailbox.drip = 0.02
    began = time.monotonic()
    with pytest.raises(SinkError, match="did not take the mail"):
        mail(mailbox).deliver(MESSAGE)
    assert time.monotonic() - began < 5
