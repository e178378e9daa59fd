"""What a machine is: one script, one round trip."""

from __future__ import annotations

from typing import Any

import msgspec

NVIDIA = "0x10de"

SCRIPT = r"""
. /etc/os-release 2>/dev/null
echo "os=$ID"
echo "os_version=$VERSION_ID"
echo "codename=$VERSION_CODENAME"
echo "kernel=$(uname -r)"
echo "arch=$(uname -m)"
echo "hostname=$(hostname 2>/dev/null || cat /etc/hostname)"
echo "cpus=$(nproc)"
echo "memory_kb=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
mkdir -p /opt /var/lib 2>/dev/null
echo "disk_free_kb=$(df -Pk /opt | awk 'NR==2 {print $4}')"
echo "time=$(date +%s.%N)"
echo "uptime=$(cut -d' ' -f1 /proc/uptime)"
echo "boot_id=$(cat /proc/sys/kernel/random/boot_id)"
echo "init_start=$(sed 's/.*) //' /proc/1/stat | cut -d' ' -f20)"
echo "init=$(cat /proc/1/comm)"
echo "container=$(cat /run/systemd/container 2>/dev/null)"
echo "python=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
echo "pci_vendors=$(cat /sys/bus/pci/devices/*/vendor 2>/dev/null | sort -u | tr '\n' ' ')"
echo "nvidia_smi=$(command -v nvidia-smi)"
echo "time_daemon=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' chrony ntpsec ntp openntpd 2>/dev/null |
  sed -n 's/^.i  *//p' | head -n 1)"
# sudo keeps it from us, but its own environment has it.
c=${SSH_CONNECTION:-$(tr '\0' '\n' < /proc/$PPID/environ 2>/dev/null | sed -n 's/^SSH_CONNECTION=//p')}
echo "ssh_port=${c##* }"
echo "time_synchronised=$(timedatectl show -p NTPSynchronized --value 2>/dev/null)"
"""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as it is found. Memory and disk in KiB, times in seconds."""

    os: str = ""
    os_version: str = ""
    codename: str = ""
    kernel: str = ""
    arch: str = ""
    hostname: str = ""
    cpus: int = 1
    memory_kb: int = 0
    disk_free_kb: int = 0
    time: float = 0.0
    uptime: float = 0.0
    boot_id: str = ""
    init_start: int = 0
    """Start time of PID 1 in clock ticks: in a container the only sign of a reboot."""
    init: str = ""
    container: str = ""
    python: str = ""
    pci_vendors: tuple[str, ...] = ()
    nvidia_smi: str = ""
    ssh_port: int = 0
    """Where its SSH server listens, which is another port than ours where one is forwarded; 0 where it is not told."""
    time_daemon: str = ""
    """A package that keeps the time, other than systemd's."""
    time_synchronised: str = ""

    @property
    def nvidia(self) -> bool:
        """Whether a PCI device of NVIDIA is there."""
        return NVIDIA in self.pci_vendors

    @property
    def boot(self) -> str:
        """A text that is another one after every reboot."""
        return f"{self.boot_id}/{self.init_start}"

    @property
    def started_at(self) -> float:
        """When the kernel started, in seconds since 1970."""
        return self.time - self.uptime


def parse(output: str) -> Facts:
    """Facts from the script's output; what a machine did not tell stays at its default."""
    pairs = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    values: dict[str, Any] = {name: value.strip() for name, value in pairs.items()}
    values["pci_vendors"] = values.get("pci_vendors", "").split()
    filled = {name: value for name, value in values.items() if value or name == "pci_vendors"}
    return msgspec.convert(filled, Facts, strict=False)


def unsupported(facts: Facts) -> str:
    """Why the playbooks cannot work on such a machine; empty where they can."""
    if facts.init != "systemd":
        return f"PID 1 is '{facts.init}', not systemd"
    if facts.arch not in ("x86_64", "aarch64"):
        return f"its architecture is {facts.arch}"
    try:
        version = float(facts.os_version)
    except ValueError:
        version = 0.0
    if (facts.os == "debian" and version >= 12) or (facts.os == "ubuntu" and version >= 24.04):
        return ""
    return f"it runs {facts.os or 'an unknown system'} {facts.os_version}".rstrip()
