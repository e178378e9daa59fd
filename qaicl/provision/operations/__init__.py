"""The operations: each a pure function from arguments, facts and findings to commands, a diff and an undo."""

from __future__ import annotations

from qaicl.provision.operations import (
    command,
    directory,
    download,
    file,
    firewall,
    line,
    package,
    reboot,
    service,
    template,
    unit,
    upload,
    user,
    venv,
    wait_for,
)
from qaicl.provision.operations.base import Operation

OPERATIONS: dict[str, Operation] = {
    module.OPERATION.name: module.OPERATION
    for module in (
        command,
        directory,
        download,
        file,
        firewall,
        line,
        package,
        reboot,
        service,
        template,
        unit,
        upload,
        user,
        venv,
        wait_for,
    )
}
