"""Where alerts go: a log file, the monitor's stream, a webhook, mail, a Telegram-style HTTP API.

A sink raises SinkError where it could not deliver, never with a secret in the text, and gives up at the deadline: the
outbox's claim must outlast every delivery.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import ssl
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qaicl.errors import SettingsError, SinkError
from qaicl.oracle.alerts.mail import SmtpSink
from qaicl.oracle.alerts.model import Message
from qaicl.oracle.alerts.outbox import AGAIN, DEADLINE, TIMEOUT, Sink
from qaicl.settings import AlertSettings, Paths, SinkSettings

if TYPE_CHECKING:
    import httpx

REPLY_LIMIT = 65_536
"""Bytes of an answer that are read."""
LOG_TAIL = 1_048_576
"""Bytes at the end of the log in which a message that was written already is looked for."""
NOT_ALLOWED = (401, 403)
"""Answers that say that the secret is wrong; asking again with it may lock the account."""
STREAM = "qaicl:alerts"
"""The Redis stream that the monitor reads."""
STREAM_LENGTH = 10_000
REMEMBERED = 7 * 86_400
"""Seconds for which the monitor's stream remembers a key."""
ADD_ONCE = """
if redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[3]) then
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'key', ARGV[1], 'alert', ARGV[2])
end
return 1
"""


class LogSink:
    """Appends one JSON object a line to a file; exactly once, as it looks for the key before it writes."""

    at_most_once = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def deliver(self, message: Message) -> None:
        """Append and flush to the disk."""
        line = msgspec.json.encode(payload(message)) + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LOG_TAIL))
                tail = file.read()
                if any(message.key.encode() in line and _whole(line) for line in tail.splitlines()):
                    return
                # A line cut off by a kill in the middle of writing must not swallow this one.
                file.write((b"\n" if tail and not tail.endswith(b"\n") else b"") + line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SinkError(f"cannot write {self._path}", why=error.strerror or str(error)) from error


def _whole(line: bytes) -> bool:
    """Whether a line was written to its end: a full disk cuts it off behind the key, and the alert would be lost."""
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return False
    return True


class MonitorSink:
    """Adds to the stream that the monitor reads; exactly once, by a key set in the same script."""

    at_most_once = False

    def __init__(self, url: str, password: str) -> None:
        self._url = url
        self._password = password

    def deliver(self, message: Message) -> None:
        """Add to the stream, unless this key was."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # The outbox tries again; the client's own attempts would outlast its claim.
        try:
            client = redis.Redis.from_url(
                self._url, password=self._password or None, socket_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            raise SinkError(
                "the monitor's URL is none", why="it does not begin with redis://", fix="mend alerts.sinks"
            ) from error
        body = msgspec.json.encode(payload(message))
        try:
            client.eval(ADD_ONCE, 2, STREAM, f"{STREAM}:{message.key}", message.key, body, REMEMBERED, STREAM_LENGTH)
        except redis.RedisError as error:
            raise SinkError("the monitor's stream does not take alerts", why=type(error).__name__) from error
        finally:
            client.close()


class WebhookSink:
    """POSTs JSON with the header ``Idempotency-Key``; a receiver that honours it takes each message once."""

    at_most_once = False

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    def deliver(self, message: Message) -> None:
        """POST; any 2xx is taken, and 409: the receiver has it already."""
        headers = {"Idempotency-Key": message.key}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        reply = _post(self._url, payload(message), headers, "the webhook")
        if not (reply.is_success or reply.status_code == 409):
            raise SinkError(
                f"the webhook answered {reply.status_code}",
                retry_after=_retry_after(reply.headers),
                permanent=reply.status_code in NOT_ALLOWED,
                why=reply.reason_phrase,
                fix=AGAIN if reply.status_code in NOT_ALLOWED else "",
            )


class TelegramSink:
    """``sendMessage`` of the Telegram bot API, which knows no idempotency key."""

    def __init__(self, url: str, token: str, chat: str, at_most_once: bool) -> None:
        self._url = url.rstrip("/") or "https://api.telegram.org"
        self._token = token
        self._chat = chat
        self.at_most_once = at_most_once

    def deliver(self, message: Message) -> None:
        """Send as plain text, cut to the API's limit of 4096 characters."""
        text = f"{message.subject}\n{message.text}"[:4096]
        body = {"chat_id": self._chat, "text": text, "disable_web_page_preview": True}
        reply = _post(f"{self._url}/bot{self._token}/sendMessage", body, {}, "Telegram")
        try:
            answer: Any = reply.json()
        except ValueError:
            answer = {}
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            answer = answer if isinstance(answer, dict) else {}
            parameters = answer.get("parameters")
            wait = parameters.get("retry_after") if isinstance(parameters, dict) else None
            raise SinkError(
                f"Telegram answered {reply.status_code}",
                retry_after=float(wait) if isinstance(wait, int | float) else _retry_after(reply.headers),
                permanent=reply.status_code in NOT_ALLOWED,
                why=str(answer.get("description", "not the documented reply"))[:200],
                fix=AGAIN if reply.status_code in NOT_ALLOWED else "",
            )


def payload(message: Message) -> dict[str, object]:
    """A message as JSON-ready data: what the log, the monitor and a webhook get."""
    plain: dict[str, object] = msgspec.to_builtins(message)
    return {"version": 1, **plain, "level": message.level.value, "subject": message.subject, "text": message.text}


def sinks(settings: AlertSettings, paths: Paths, context: str) -> dict[str, Sink]:
    """Every sink of the settings, by name.

    Raises:
        SettingsError: a sink lacks what its kind needs, its secret file is readable by others, or a route names none.
    """
    made = {name: _sink(name, sink, paths, context) for name, sink in settings.sinks.items()}
    for route in settings.routes:
        for name in route.sinks:
            if name not in made:
                raise SettingsError(f"alerts.routes names the sink '{name}'", why="alerts.sinks has none of that name")
    return made


def _sink(name: str, settings: SinkSettings, paths: Paths, context: str) -> Sink:
    where = f"alerts.sinks.{name}"
    secret = _secret(settings.secret_file, where)
    match settings.kind:
        case "log":
            return LogSink(Path(settings.path).expanduser() if settings.path else paths.run(context) / "alerts.jsonl")
        case "monitor":
            _need(where, url=settings.url)
            return MonitorSink(settings.url, secret)
        case "webhook":
            _need(where, url=settings.url)
            return WebhookSink(settings.url, secret)
        case "telegram":
            _need(where, chat=settings.chat, secret_file=secret)
            return TelegramSink(settings.url, secret, settings.chat, settings.at_most_once)
        case "smtp":
            _need(where, host=settings.host, sender=settings.sender, recipients=settings.recipients)
            if settings.user and not settings.starttls and not _here(settings.host):
                raise SettingsError(
                    f"{where} would send a password in the clear",
                    why=f"user is set, starttls is false, and {settings.host} is another machine",
                    fix="set starttls = true, or leave user out",
                )
            return SmtpSink(settings, secret)


def _need(where: str, **fields: object) -> None:
    if missing := [name for name, value in fields.items() if not value]:
        raise SettingsError(f"{where} lacks {', '.join(missing)}", fix="add it in config.toml")


def _here(host: str) -> bool:
    """Whether the host is this machine, by its name alone: a resolver may lie."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(file: str, where: str) -> str:
    if not file:
        return ""
    path = Path(file).expanduser()
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(
                f"others may read {path}", why=f"it holds the secret of {where}", fix=f"run: chmod 600 {path}"
            )
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"cannot read {path}", why=error.strerror or str(error), fix=f"mend {where}") from error


def _post(url: str, body: object, headers: Mapping[str, str], who: str) -> httpx.Response:
    import httpx

    sent = {"Content-Type": "application/json", **headers}

    async def post() -> httpx.Response:
        async with (
            asyncio.timeout(DEADLINE),
            httpx.AsyncClient(timeout=TIMEOUT, verify=_trusted()) as client,
            client.stream("POST", url, content=msgspec.json.encode(body), headers=sent) as reply,
        ):
            read = b""
            async for part in reply.aiter_bytes(REPLY_LIMIT):
                read += part
                if len(read) >= REPLY_LIMIT:
                    break
        return httpx.Response(reply.status_code, headers=_plain(reply.headers), content=read[:REPLY_LIMIT])

    try:
        return asyncio.run(post())
    except TimeoutError:
        why = f"no whole answer within {DEADLINE:.0f} s"
        raise SinkError(f"{who} does not answer", unknown=True, why=why) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        unsent = isinstance(
            error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol | httpx.InvalidURL
        )
        # The error's text may carry the URL, and with it a token.
        raise SinkError(f"{who} does not answer", unknown=not unsent, why=type(error).__name__) from None


@cache
def _trusted() -> ssl.SSLContext:
    """Read once: it takes longer than a delivery."""
    import httpx

    return httpx.create_ssl_context()


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of a body that is unpacked already; none but ASCII can be taken over, and none but ASCII is read."""
    return {
        name: value
        for name, value in headers.items()
        if value.isascii() and name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
    }


def _retry_after(headers: Mapping[str, str]) -> float | None:
    given = headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdigit() else None
