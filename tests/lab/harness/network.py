"""The lab's network: one namespace with a bridge, a way out to the package registries, and cuts on demand.

Everything is named after the lab, so that it can be found and removed without any record of who made it. Labs
share two things of the root namespace, the blackhole route and IP forwarding; the last lab removes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from .command import run, succeeds
from .config import BRIDGE, CONTROLLER_ADDRESS, LOCKS, SUBNET, LabConfig
from .errors import LabError
from .lock import hold

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
LINKS = LOCKS / "links.json"
CUTS = "qaicl_lab_cuts"
# RFC 2544 benchmark addresses: never routed, one /30 a lab.
LINK_NETWORK = "198.18.0"
MOST_LABS = 64


class Network:
    """The network of one lab."""

    def __init__(self, config: LabConfig) -> None:
        self._namespace = config.namespace
        self._name = config.name

    @property
    def path(self) -> Path:
        """What ``nsenter --net=`` takes."""
        return Path("/run/netns") / self._namespace

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs ``command`` in the lab's network.

        ``nsenter`` and not ``ip netns exec``: the latter mounts /sys anew, and systemd-nspawn then finds no cgroups.
        """
        return ["nsenter", f"--net={self.path}", *map(str, command)]

    @property
    def is_up(self) -> bool:
        return self.path.exists() and succeeds(*self.inside("ip", "link", "show", BRIDGE))

    def up(self) -> None:
        """Make namespace, bridge, way out and the blackhole route.

        Raises:
            LabError: this machine already routes the lab's addresses somewhere.
        """
        with hold(LOCKS / "network.lock", wait=True):
            index = self._take_link()
            self._block_lab_addresses()
            run("ip", "netns", "add", self._namespace)
            run(*self.inside("ip", "link", "set", "lo", "up"))
            run(*self.inside("ip", "link", "add", BRIDGE, "type", "bridge"))
            run(*self.inside("ip", "address", "add", f"{CONTROLLER_ADDRESS}/24", "dev", BRIDGE))
            run(*self.inside("ip", "link", "set", BRIDGE, "up"))
            self._open_way_out(index)

    def down(self) -> None:
        """Remove all of it, however much of it there is."""
        with hold(LOCKS / "network.lock", wait=True):
            links = _read_links()
            index = links["labs"].pop(self._name, None)
            if index is not None:
                run("nft", "delete", "table", "ip", _table(index), check=False)
                run("ip", "link", "delete", _outer(index), check=False)
            if self.path.exists():
                run("ip", "netns", "delete", self._namespace)
            if not links["labs"]:
                run("ip", "route", "delete", "blackhole", SUBNET, check=False)
                if links["forwarding"] is not None:
                    FORWARDING.write_text(links["forwarding"])
                    links["forwarding"] = None
            _write_links(links)

    def cut(self, one: list[str], other: list[str]) -> None:
        """Drop every IPv4 packet between the two groups of addresses, both ways, until :meth:`heal`."""
        left, right = "{ " + ", ".join(one) + " }", "{ " + ", ".join(other) + " }"
        drops = "\n".join(f"ip saddr {a} ip daddr {b} drop" for a, b in ((left, right), (right, left)))
        # ARP goes on: a cut link loses packets, it doesn't pull the plug.
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; }}\n" for hook in ("forward", "input", "output")
        )
        rules = "".join(
            f"add rule bridge {CUTS} {hook} {drop}\n"
            for hook in ("forward", "input", "output")
            for drop in drops.splitlines()
        )
        run(*self.inside("nft", "-f", "-"), stdin=f"table bridge {CUTS} {{\n{chains}}}\n{rules}")

    def heal(self) -> None:
        """Undo every cut."""
        run(*self.inside("nft", "delete", "table", "bridge", CUTS), check=False)

    @property
    def cuts(self) -> list[str]:
        """The drop rules in force, as nft prints them."""
        shown = run(*self.inside("nft", "list", "table", "bridge", CUTS), check=False).stdout
        return sorted({line.strip() for line in shown.splitlines() if line.strip().endswith("drop")})

    def leftovers(self) -> list[str]:
        """What of this lab, or of labs that nobody remembers, is still in the kernel."""
        with hold(LOCKS / "network.lock", wait=True):
            labs = {name: index for name, index in _read_links()["labs"].items() if name != self._name}
            found = [f"network namespace {self._namespace}"] if self.path.exists() else []
            known = {word for index in labs.values() for word in (_outer(index), _table(index))}
            links = [link["ifname"] for link in json.loads(run("ip", "-json", "link", "show").stdout)]
            tables = [line.split()[-1] for line in run("nft", "list", "tables").stdout.splitlines()]
            found += [f"link {link}" for link in links if link.startswith("qaicl-lab") and link not in known]
            found += [f"nft table {table}" for table in tables if table.startswith("qaicl_lab") and table not in known]
            if not labs and SUBNET in run("ip", "route", "show", "type", "blackhole").stdout:
                found.append(f"route blackhole {SUBNET}")
            return found

    def _take_link(self) -> int:
        links = _read_links()
        free = next((index for index in range(MOST_LABS) if index not in links["labs"].values()), None)
        if free is None:
            raise LabError(f"{MOST_LABS} labs are up already")
        links["labs"][self._name] = free
        if links["forwarding"] is None:
            links["forwarding"] = FORWARDING.read_text()
        _write_links(links)
        return free

    def _block_lab_addresses(self) -> None:
        routes = run("ip", "-json", "route", "show", "root", SUBNET).stdout
        taken = [route for route in json.loads(routes or "[]") if route.get("type") != "blackhole"]
        if taken:
            raise LabError(f"this machine routes {taken[0]['dst']} itself: a lab at {SUBNET} would hide it")
        if not routes.strip() or not json.loads(routes):
            run("ip", "route", "add", "blackhole", SUBNET)

    def _open_way_out(self, index: int) -> None:
        outer, inner = f"{LINK_NETWORK}.{4 * index + 1}", f"{LINK_NETWORK}.{4 * index + 2}"
        FORWARDING.write_text("1")
        run("ip", "link", "add", _outer(index), "type", "veth", "peer", "name", "out0", "netns", self._namespace)
        run("ip", "address", "add", f"{outer}/30", "dev", _outer(index))
        run("ip", "link", "set", _outer(index), "up")
        run(*self.inside("ip", "address", "add", f"{inner}/30", "dev", "out0"))
        run(*self.inside("ip", "link", "set", "out0", "up"))
        run(*self.inside("ip", "route", "add", "default", "via", outer))
        run(*self.inside("sysctl", "-q", "-w", "net.ipv4.ip_forward=1"))
        run("nft", "-f", "-", stdin=_masquerade(_table(index), f"ip saddr {inner}"))
        run(*self.inside("nft", "-f", "-"), stdin=_masquerade("qaicl_lab", f'ip saddr {SUBNET} oifname "out0"'))


def _outer(index: int) -> str:
    return f"qaicl-lab{index}"


def _table(index: int) -> str:
    return f"qaicl_lab{index}"


def _masquerade(table: str, match: str) -> str:
    return f"""table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    {match} masquerade
  }}
}}
"""


class _Links(TypedDict):
    """Which lab uses which /30, and what IP forwarding was before the first."""

    labs: dict[str, int]
    forwarding: str | None


def _read_links() -> _Links:
    if not LINKS.exists():
        return {"labs": {}, "forwarding": None}
    return json.loads(LINKS.read_text())  # type: ignore[no-any-return]


def _write_links(links: _Links) -> None:
    fresh = LINKS.with_suffix(".new")
    fresh.write_text(json.dumps(links))
    fresh.replace(LINKS)
