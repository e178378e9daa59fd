"""A process that delivers with two threads, as the daemon's two jobs: ``deliverer.py URL SENT GO``.

It begins when the file ``GO`` is there, so that several of them begin together. A process of its own and not a fork of
the tests' one, whose threads a fork would leave behind in the middle of whatever they did.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from sqlalchemy.engine import make_url

from qaicl.oracle import database
from qaicl.oracle.alerts.model import Message
from qaicl.oracle.alerts.outbox import Outbox
from qaicl.oracle.store import Store


class FileSink:
    """Writes each key on a line of its own, whichever process it is in."""

    at_most_once = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def deliver(self, message: Message) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, f"{message.key}\n".encode())
        os.close(handle)
        # Long enough for another deliverer to look at the same message.
        time.sleep(0.002)


def main(url: str, sent: Path, go: Path) -> None:
    parsed = make_url(url)
    parsed = parsed if parsed.get_backend_name() == "sqlite" else parsed.set(drivername="postgresql+psycopg")
    with Store(database.connect(parsed)) as store:

        def work() -> None:
            outbox = Outbox(store, {"s": FileSink(sent)})
            while not go.exists():
                time.sleep(0.001)
            while any(one.state == "pending" for one in outbox.waiting()):
                outbox.deliver()

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
