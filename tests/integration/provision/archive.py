"""A package archive: tiny packages, an index and its signature, served over HTTP on the loopback interface."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from pretend import wait_until

from qaicl.provision.apt import ARCHITECTURES

TOOLS = ("apt-get", "dpkg-deb", "gpg")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
ARCHITECTURE = ARCHITECTURES.get(platform.machine(), "all")


class Signer:
    """A throwaway key."""

    def __init__(self, name: str) -> None:
        # Not below pytest's directory: the agent's socket needs a short path.
        self._home = tempfile.mkdtemp(prefix="qaicl-gpg-")
        self._gpg("--passphrase", "", "--quick-generate-key", f"{name} <{name}@example>", "ed25519", "sign")
        self.keyring = Path(self._home) / "archive.gpg"
        self.keyring.write_bytes(self._gpg("--export"))

    def _gpg(self, *words: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", self._home, "--batch", "--quiet", "--yes", *words]
        return subprocess.run(command, input=stdin, check=True, capture_output=True).stdout

    def clearsign(self, text: bytes) -> bytes:
        return self._gpg("--clearsign", "--output", "-", stdin=text)

    def forget(self) -> None:
        subprocess.run(["gpgconf", "--homedir", self._home, "--kill", "all"], check=True)
        # The agents end in their own time and take their sockets away meanwhile.
        wait_until(lambda: not list(Path(self._home).glob("S.*")))
        shutil.rmtree(self._home)


@dataclass
class Archive:
    """A flat, signed apt repository on a web server.

    Args:
        broken: names of files that the server answers with an error.
    """

    directory: Path
    signer: Signer
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    _records: dict[str, str] = field(default_factory=dict)
    _server: http.server.ThreadingHTTPServer | None = None

    @property
    def source(self) -> str:
        assert self._server is not None
        port = self._server.server_address[1]
        return f"deb [signed-by={self.signer.keyring}] http://127.0.0.1:{port}/ ./"

    def add(self, name: str, version: str, *, source: str = "", size: int = 10, **fields: str) -> Path:
        """Build a package that holds one file, ``/opt/NAME``, which says its version."""
        tree = self.directory.parent / "trees" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "opt").mkdir()
        (tree / "opt" / name).write_text(f"{version}\n" + "x" * size)
        control = {
            "Package": name,
            "Version": version,
            "Architecture": ARCHITECTURE,
            "Maintainer": "a test <a@example>",
            "Description": "a test",
        } | ({"Source": source} if source else {})
        control |= {key.capitalize(): value for key, value in fields.items()}
        (tree / "DEBIAN" / "control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
        path = self.directory / f"{name}_{version.partition(':')[2] or version}_{ARCHITECTURE}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path)]
        subprocess.run(command, check=True, capture_output=True)
        self._records[path.name] = (tree / "DEBIAN" / "control").read_text()
        return path

    def remove(self, path: Path) -> None:
        del self._records[path.name]

    def copy(self, directory: Path) -> Archive:
        """The same packages on a server of their own."""
        shutil.copytree(self.directory, directory)
        return Archive(directory, self.signer, _records=dict(self._records))

    def publish(self) -> None:
        """Write the index and sign it."""
        paragraphs = []
        for name, control in sorted(self._records.items()):
            data = (self.directory / name).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            paragraphs.append(f"{control}Filename: ./{name}\nSize: {len(data)}\nSHA256: {digest}\n")
        index = "\n".join(paragraphs).encode()
        signed = self.directory / "InRelease"
        # A server tells seconds: what is published twice within one would count as unchanged.
        moment = int(signed.stat().st_mtime) + 1 if signed.exists() else int(time.time()) - 1000
        (self.directory / "Packages").write_bytes(index)
        release = f"Origin: test\nCodename: test\nDate: {formatdate(usegmt=True)}\nSHA256:\n"
        release += f" {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
        signed.write_bytes(self.signer.clearsign(release.encode()))
        for path in (signed, self.directory / "Packages"):
            os.utime(path, (moment, moment))

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        archive = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                archive.asked.append(name)
                if name in archive.broken:
                    self.send_error(503)
                else:
                    super().do_GET()

            def log_message(self, *_: object) -> None:
                return

        handler = functools.partial(Handler, directory=str(self.directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="archive").start()

    def stop(self) -> None:
        """The mirror is gone."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def fetched(self) -> list[str]:
        """The packages that somebody has asked for."""
        return sorted(name for name in self.asked if name.endswith(".deb"))
