"""Small real servers that alerts are sent to in tests."""

from __future__ import annotations

import base64
import ipaddress
import json
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Inbox:
    """What an HTTP server was sent, and what it answers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, object]]] = []
        self.answers: list[tuple[int, dict[str, str], object]] = []
        """Answers still to be given; when empty, 200 and ``{"ok": true}``."""
        self.url = ""

    @property
    def keys(self) -> list[str]:
        return [headers["idempotency-key"] for _, headers, _ in self.requests]


@contextmanager
def http_server(port: int = 0) -> Iterator[Inbox]:
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inbox.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, headers, answer = inbox.answers.pop(0) if inbox.answers else (200, {}, {"ok": True})
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    inbox.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield inbox
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Mailbox:
    """What a mail server was sent, and how it behaves."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        self.lines: list[tuple[bool, str]] = []
        """Every command line, and whether it came encrypted."""
        self.refuse = ""
        """Answer to the body in place of 250."""
        self.tls: ssl.SSLContext | None = None
        """Offers STARTTLS with it."""
        self.password = ""
        """Offers AUTH, and takes this password of anybody; empty: asks for none."""
        self.login_answer = "535 5.7.8 no such user, or another password"
        self.farewell = "221 bye"
        self.silent = False
        """Takes the body and hangs up without an answer."""
        self.unknown: set[str] = set()
        """Recipients that it refuses."""
        self.drip = 0.0
        """Seconds between the single bytes of a greeting that never ends; 0 greets as usual."""
        self.port = 0

    @property
    def clear_text(self) -> str:
        """Whatever crossed the wire unencrypted."""
        return "\n".join(line for encrypted, line in self.lines if not encrypted)


class _Mail(socketserver.StreamRequestHandler):
    """One connection: RFC 5321 with STARTTLS (RFC 3207) and AUTH PLAIN (RFC 4616)."""

    mailbox: Mailbox
    encrypted = False

    def handle(self) -> None:
        try:
            while self.mailbox.drip:
                self.wfile.write(b"2")
                time.sleep(self.mailbox.drip)
            self._talk()
        except OSError:
            pass  # a client that breaks off is what some tests are about

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def _talk(self) -> None:
        self.say("220 test")
        while line := self.rfile.readline():
            text = line.decode().strip()
            self.mailbox.lines.append((self.encrypted, text))
            command, _, rest = text.partition(" ")
            match command.upper():
                case "EHLO":
                    self._greet()
                case "STARTTLS" if self.mailbox.tls is not None:
                    self.say("220 go on")
                    super().finish()  # closes the files of the socket in the clear
                    self.request = self.mailbox.tls.wrap_socket(self.request, server_side=True)
                    self.setup()
                    self.encrypted = True
                case "AUTH":
                    self._log_in(rest.removeprefix("PLAIN "))
                case "RCPT" if any(one in rest for one in self.mailbox.unknown):
                    self.say("550 no such user")
                case "DATA":
                    self._take()
                    if self.mailbox.silent:
                        return
                case "QUIT":
                    self.say(self.mailbox.farewell)
                    return
                case _:
                    self.say("250 ok")

    def _greet(self) -> None:
        offers = ["test"]
        if self.mailbox.tls is not None and not self.encrypted:
            offers.append("STARTTLS")
        if self.mailbox.password:
            offers.append("AUTH PLAIN")
        for offer in offers[:-1]:
            self.say(f"250-{offer}")
        self.say(f"250 {offers[-1]}")

    def _log_in(self, given: str) -> None:
        password = base64.b64decode(given).split(b"\0")[2].decode()
        self.say("235 welcome" if password == self.mailbox.password else self.mailbox.login_answer)

    def _take(self) -> None:
        self.say("354 go on")
        body = b""
        while (part := self.rfile.readline()) != b".\r\n":
            body += part
        if not self.mailbox.refuse:
            self.mailbox.mails.append(body.decode())
        if not self.mailbox.silent:
            self.say(self.mailbox.refuse or "250 taken")

    def say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


@contextmanager
def smtp_server() -> Iterator[Mailbox]:
    mailbox = Mailbox()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), type("Mail", (_Mail,), {"mailbox": mailbox})) as server:
        mailbox.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield mailbox
        finally:
            mailbox.drip = 0.0
            server.shutdown()
            thread.join()


def certificate(folder: Path, host: str) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS with a certificate of its own making, and the file that a client must trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "qaicl test")])
    names: list[x509.GeneralName]
    try:
        names = [x509.IPAddress(ipaddress.ip_address(host))]
    except ValueError:
        names = [x509.DNSName(host)]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "certificate.pem", folder / "key.pem"
    trusted.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted
