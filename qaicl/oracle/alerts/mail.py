"""Alerts by mail, over STARTTLS and a login where the settings want them."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC
from email.message import EmailMessage
from email.utils import format_datetime
from types import TracebackType

from qaicl.errors import SinkError
from qaicl.oracle.alerts.model import Message
from qaicl.oracle.alerts.outbox import AGAIN, DEADLINE, TIMEOUT
from qaicl.settings import SinkSettings


class SmtpSink:
    """A mail. Its Message-ID is made from the key, so that a mail system can see a second copy; many do not look."""

    def __init__(self, settings: SinkSettings, password: str) -> None:
        self._settings = settings
        self._password = password
        self.at_most_once = settings.at_most_once

    def deliver(self, message: Message) -> None:
        """Send; taken once the server has answered the body with 250."""
        settings = self._settings
        mail = EmailMessage()
        mail["Subject"] = message.subject
        mail["From"] = settings.sender
        mail["To"] = ", ".join(settings.recipients)
        mail["Date"] = format_datetime(message.at.astimezone(UTC))
        mail["Message-ID"] = f"<{message.key[:32]}@qaicl.alerts>"
        mail.set_content(message.text + "\n")
        where, sending = f"{settings.host}:{settings.port}", False
        try:
            with _Mailer(settings.host, settings.port) as server:
                if settings.starttls:
                    _secure(server, where)
                if settings.user:
                    self._log_in(server, where)
                sending = True
                refused = server.send_message(mail)
        except ssl.SSLCertVerificationError as error:
            raise SinkError(
                f"the mail server {where} has a certificate that is not trusted",
                why=error.verify_message,
                fix="name its authority's certificate in SSL_CERT_FILE",
            ) from error
        except OSError as error:  # every error of smtplib is one
            raise _failure(error, where, sending) from error
        if refused:
            raise SinkError(
                f"the mail server {where} refused {', '.join(sorted(refused))}",
                # Once more would be once too often for the others.
                permanent=True,
                why="the other recipients have the mail",
                fix="mend alerts.sinks",
            )

    def _log_in(self, server: smtplib.SMTP, where: str) -> None:
        try:
            server.login(self._settings.user, self._password)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPNotSupportedError) as error:
            # The server's own words are left out: nobody knows that they do not repeat the password.
            code = getattr(error, "smtp_code", None)
            raise SinkError(
                f"the mail server {where} does not let {self._settings.user} log in",
                # 4xx: it cannot tell now, such as 454 while its directory is down.
                permanent=code is None or code >= 500,
                why=f"it answered {code}" if code else "it offers no way to log in that is known here",
                fix=AGAIN,
            ) from None


class _Mailer(smtplib.SMTP):
    """An SMTP connection that is cut at the deadline: smtplib's own limit is a wait for each answer."""

    def __init__(self, host: str, port: int) -> None:
        self._deadline = threading.Timer(DEADLINE, self._cut)
        self._deadline.daemon = True
        self._deadline.start()
        try:
            super().__init__(host, port, timeout=TIMEOUT)
        except BaseException:
            self._deadline.cancel()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What happened before is what counts: a server that takes leave badly changes nothing of it.
        with suppress(smtplib.SMTPException):
            super().__exit__(kind, error, trace)

    def close(self) -> None:
        self._deadline.cancel()
        super().close()

    def _cut(self) -> None:
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def _secure(server: smtplib.SMTP, where: str) -> None:
    try:
        server.starttls(context=ssl.create_default_context())
    except smtplib.SMTPNotSupportedError as error:
        raise SinkError(
            f"the mail server {where} offers no STARTTLS",
            permanent=True,
            why="nothing is sent to it in the clear",
            fix="name one that does, then run: qaicl oracle alerts retry",
        ) from error


def _failure(error: OSError, where: str, sending: bool) -> SinkError:
    answered = isinstance(error, smtplib.SMTPException) and not isinstance(error, smtplib.SMTPServerDisconnected)
    why = type(error).__name__
    if isinstance(error, smtplib.SMTPResponseException):
        why = f"{error.smtp_code} {error.smtp_error!r}"[:200]
    # Where it broke off while the mail was sent, the server may have it without having said so.
    return SinkError(f"the mail server {where} did not take the mail", unknown=sending and not answered, why=why)
