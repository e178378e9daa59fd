"""Names, addresses and places of a lab."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

NAME_VARIABLE = "QAICL_LAB_NAME"
DEFAULT_NAME = "qaicl-lab"
STATE = Path("/var/lib/qaicl-lab")
LOCKS = Path("/run/qaicl-lab")
SUBNET = "10.0.0.0/24"
CONTROLLER = "controller"
CONTROLLER_ADDRESS = "10.0.0.1"
BRIDGE = "br0"


@dataclass(frozen=True)
class Guest:
    """One machine of the lab."""

    name: str
    address: str


GUESTS = (Guest("vm1", "10.0.0.10"), Guest("vm2", "10.0.0.20"), Guest("vm3", "10.0.0.30"))


def cache_directory() -> Path:
    """Where the base image and downloaded packages outlive the lab; outside of the repository."""
    override = os.environ.get("XDG_CACHE_HOME")
    return Path(override) / "qaicl-lab" if override else Path("/var/cache/qaicl-lab")


@dataclass(frozen=True)
class LabConfig:
    """One lab instance. Labs of different names run side by side with the same addresses."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"lab name {self.name!r}: use up to 31 of a-z, 0-9 and '-', starting with a letter or digit")

    @classmethod
    def from_environment(cls, default: str = DEFAULT_NAME) -> LabConfig:
        """The lab that ``QAICL_LAB_NAME`` names, or ``default``."""
        return cls(os.environ.get(NAME_VARIABLE) or default)

    @property
    def namespace(self) -> str:
        return self.name

    @property
    def directory(self) -> Path:
        return STATE / self.name

    @property
    def lock_file(self) -> Path:
        return LOCKS / f"{self.name}.lock"

    @property
    def key_file(self) -> Path:
        """The controller's private key, accepted by every guest."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The host keys of the guests, written before they boot."""
        return self.directory / "known_hosts"

    def snapshot_directory(self, snapshot: str) -> Path:
        return self.directory / "snapshots" / snapshot

    def machine_directory(self, guest: Guest) -> Path:
        return self.directory / "machines" / guest.name
