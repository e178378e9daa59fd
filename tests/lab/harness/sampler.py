"""What anybody on the machines can see while a run goes on: command lines and environments."""

from __future__ import annotations

import threading

from .errors import GuestOffError
from .lab import Lab


class Sampler:
    """Looks at every process of every machine, again and again, while a run goes on."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampler")
        self.seen: set[str] = set()
        self.rounds = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._enough.is_set():
            for machine in self._lab.machines.values():
                try:
                    processes = machine.processes()
                except GuestOffError:
                    continue
                for process in processes:
                    self.seen.update(process.arguments)
                    self.seen.update(process.environment)
            self.rounds += 1
            self._enough.wait(0.05)
