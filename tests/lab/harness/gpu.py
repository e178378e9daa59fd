"""A stand-in for an NVIDIA device and its driver: no machine of a lab has one.

What is real with it: how the device is detected, the distribution's sources, apt, the reboot, the run that goes on.
What is not: the driver. Its packages have Debian's names and a higher version, lie in an archive on the machine itself,
and bring an ``nvidia-smi`` that fails until the machine has been booted anew, as the real one does.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from .command import run
from .lab import Lab

ARCHIVE = "/srv/stand-in"
DRIVER_PACKAGES = ("linux-headers-amd64", "nvidia-driver", "nvidia-smi")
VERSION = "9999"

_DEVICE = """\
[Unit]
Description=An NVIDIA device on the PCI bus, for who only looks
DefaultDependencies=no
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'mount -t tmpfs tmpfs /sys/bus/pci/devices && mkdir /sys/bus/pci/devices/0000:00:09.0 && \
echo 0x10de > /sys/bus/pci/devices/0000:00:09.0/vendor'
[Install]
WantedBy=sysinit.target
"""
_BOOT = "sed 's/.*) //' /proc/1/stat | cut -d' ' -f20"
_INSTALLED = f"#!/bin/sh\n{_BOOT} > /var/lib/nvidia-stand-in\n"
_SMI = f"""\
#!/bin/sh
if [ "$(cat /var/lib/nvidia-stand-in)" = "$({_BOOT})" ]; then
  echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
  exit 9
fi
echo "GPU 0: Stand-in (UUID: GPU-00000000)"
"""


def plug_in(lab: Lab, name: str) -> None:
    """Give a running machine an NVIDIA device, now and after every boot, and an archive with a driver for it."""
    machine = lab.machine(name)
    unit = "/etc/systemd/system/stand-in-device.service"
    lab.ssh(name, f"cat > {unit}; systemctl enable --now --quiet stand-in-device", stdin=_DEVICE)
    archive = machine.root / ARCHIVE.removeprefix("/")
    archive.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as directory:
        index = [_build(Path(directory) / package, package, archive) for package in DRIVER_PACKAGES]
    (archive / "Packages").write_text("\n".join(index))
    source = f"deb [trusted=yes] file:{ARCHIVE} ./"
    lab.ssh(name, f"echo '{source}' > /etc/apt/sources.list.d/stand-in.list")


def _build(tree: Path, package: str, archive: Path) -> str:
    """Put a package into the archive and return its paragraph of the index."""
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    text = (
        f"Package: {package}\nVersion: {VERSION}\nArchitecture: all\nMaintainer: lab <lab@localhost>\n"
        "Description: stand-in\n"
    )
    (control / "control").write_text(text)
    if package == "nvidia-smi":
        for path, script in ((control / "postinst", _INSTALLED), (tree / "usr/bin/nvidia-smi", _SMI)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(script)
            path.chmod(0o755)
    file = archive / f"{package}.deb"
    run("dpkg-deb", "--root-owner-group", "--build", tree, file)
    data = file.read_bytes()
    return f"{text}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
