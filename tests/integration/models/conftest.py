"""A model hub on the loopback interface that speaks the real paths and can break in every way a hub does."""

import hashlib
import json
import random
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save

from qaicl import models, settings
from qaicl.models.download import Downloader, client
from qaicl.models.progress import silent
from qaicl.models.sources import open_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = 3_000_000


@dataclass
class Fault:
    """What the next request for a file meets: a status, or a body that is cut, held back, or other bytes."""

    status: int | None = None
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    hold: int | None = None
    body: bytes | None = None


@dataclass
class Seen:
    """A request as the server saw it; ``sent`` counts the bytes of the file that went out."""

    host: str
    path: str
    headers: dict
    sent: int = 0


class Hub:
    """The hub and, on another port, the content network that it redirects large files to."""

    def __init__(self):
        self.repos = {}
        self.faults = {}
        self.seen = []
        self.ignore_range = False
        self.bare_list = False
        self.list_changes = {}
        self.answer_commit = COMMIT
        self.etags = {}
        self.holding = threading.Event()
        self.release = threading.Event()
        self._servers = [self._start("hub"), self._start("cdn")]
        self.url, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def _start(self, host):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(host, self)

            def log_message(self, *_arguments):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, _request, _address):
                """A client that goes away is part of these tests."""

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        return server

    def close(self):
        self.release.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fail(self, path, *faults):
        """Let the next requests for the file meet these faults, one each; given as the fields of :class:`Fault`."""
        self.faults[path] = deque(Fault(**fault) for fault in faults)

    def sent(self, name):
        """Bytes that were sent of a file, over all requests."""
        return sum(seen.sent for seen in self.seen if seen.path.endswith(f"/{name}") and "/api/" not in seen.path)

    def answer(self, host, handler):
        url = urlsplit(handler.path)
        path = unquote(url.path)
        seen = Seen(host, path, {key.lower(): value for key, value in handler.headers.items()})
        self.seen.append(seen)
        fault = self._fault(host, path)
        if fault.status:
            self._reply(handler, seen, fault.status, b"{}", fault.headers)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
            assert parse_qs(url.query) == {"blobs": ["true"]}
            self._list(handler, seen, match[1])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[0-9a-f]{40}/(.+)", path):
            self._resolve(host, handler, seen, match[1], match[2], fault)
        else:
            self._reply(handler, seen, 404, b"{}", {})

    def _fault(self, host, path):
        queue = next((queue for name, queue in self.faults.items() if path.endswith(name) and queue), None)
        redirects = host == "hub" and path.endswith(".safetensors") and queue and queue[0].status is None
        return Fault() if queue is None or redirects else queue.popleft()

    def _list(self, handler, seen, repo):
        if repo not in self.repos:
            self._reply(handler, seen, 404, b'{"error":"Repository not found"}', {})
            return
        siblings = []
        for name, data in self.repos[repo].items():
            sibling = {"rfilename": name}
            if not self.bare_list:
                sibling |= {"size": len(data), "blobId": blob_id(data)}
                if name.endswith(".safetensors"):
                    sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
            siblings.append(sibling)
        document = {"id": repo, "sha": COMMIT, "private": False, "siblings": siblings} | self.list_changes
        self._reply(handler, seen, 200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _resolve(self, host, handler, seen, repo, name, fault):
        data = self.repos[repo][name]
        large = name.endswith(".safetensors")
        etag = self.etags.get(name, hashlib.sha256(data).hexdigest() if large else blob_id(data))
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if host == "hub":
            headers["X-Repo-Commit"] = self.answer_commit
            if large:
                location = {"Location": self.cdn + handler.path, "X-Linked-Etag": f'"{etag}"'}
                self._reply(handler, seen, 302, b"", headers | location | {"X-Linked-Size": str(len(data))})
                return
        self._body(handler, seen, fault.body or data, headers, fault)

    def _body(self, handler, seen, data, headers, fault):
        start, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        fresh = seen.headers.get("if-range") in (None, headers["ETag"])
        if wanted and fresh and not self.ignore_range:
            start, status = int(wanted[1]), 206
            if start >= len(data):
                self._reply(handler, seen, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self._reply(handler, seen, status, data[start:], headers, fault)

    def _reply(self, handler, seen, status, body, headers, fault=None):
        handler.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(key, value)
        handler.end_headers()
        stop = len(body)
        if fault and fault.cut is not None:
            stop = fault.cut
            handler.close_connection = True
        first = stop if fault is None or fault.hold is None else fault.hold
        handler.wfile.write(body[:first])
        seen.sent = first if status in (200, 206) else 0
        if first < stop:
            self.holding.set()
            self.release.wait()
            handler.wfile.write(body[first:stop])
            seen.sent = stop


def blob_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture(scope="session")
def tiny_files():
    """A model directory in hub form, of 3 MB, whose weights are drawn with a fixed seed."""
    values = np.random.default_rng(7).standard_normal(WEIGHTS // 4, dtype=np.float32)
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors": save({"w": values}),
        "README.md": b"# not taken",
        "pytorch_model.bin": b"never taken",
    }


@pytest.fixture
def hub(tiny_files):
    server = Hub()
    server.repos["me/tiny"] = dict(tiny_files)
    yield server
    server.close()


class Installation:
    """Settings of an empty installation whose catalogue has the one model ``tiny``, and pulls without real pauses."""

    def __init__(self, home, hub="http://127.0.0.1:9", directory="", **fields):
        known = {"name": "tiny", "source": f"hf:me/tiny@{COMMIT}", "family": "llama", "licence": "MIT"}
        (home / "config").mkdir(exist_ok=True)
        (home / "config" / "models.toml").write_text(
            "[[model]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in (known | fields).items())
        )
        self.environ = {"QAICL_HOME": str(home), "QAICL_MODELS_HUB": hub, "QAICL_MODELS_DIRECTORY": str(directory)}
        self.settings = settings.load(environ=self.environ)
        self.store = models.open_store(self.settings)
        self.model = models.open_catalogue(self.settings)["tiny"]
        self.pauses = []

    def source(self, http, progress=silent, token=""):
        downloader = Downloader(http, progress, sleep=self.pauses.append, jitter=random.Random(1))
        return open_source(self.model, hub=self.settings.values.models.hub, token=token, downloader=downloader)

    def pull(self, progress=silent, token=""):
        with client() as http:
            return self.store.pull(self.model, self.source(http, progress, token), progress)

    def assert_nothing_landed(self):
        """No model and no staging are left, only what a later pull resumes."""
        assert self.store.list() == []
        assert all(".partial" in path.parts for path in self.store.directory.rglob("*") if path.is_file())
        assert not list(self.store.directory.rglob("staging"))


def toml(value):
    """A value as TOML writes it: strings, numbers and lists of tables."""
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


@pytest.fixture
def installation(tmp_path, hub):
    """Makes an :class:`Installation` that pulls from ``hub`` where nothing else is said."""
    (tmp_path / "home").mkdir()

    def make(**fields):
        return Installation(tmp_path / "home", **({"hub": hub.url} | fields))

    return make
