"""Pushing files: SFTP into a staging directory, resumed where it broke off, verified on the host, then moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import paramiko

from qaicl.errors import BundleError, StepFailedError
from qaicl.provision.operations.base import STATE, BundleFile, Upload, quote
from qaicl.provision.ssh import Connection, unreachable

STAGING = "/var/lib/qaicl-staging"
CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]
"""Told the file's name, the bytes that are there and the bytes in all."""


def push(connection: Connection, upload: Upload, progress: Progress) -> None:
    """Bring every file of the upload to its place.

    Raises:
        BundleError: a file arrived damaged, or is damaged here.
        StepFailedError: the disk is full, or the place cannot be written.
        HostUnreachableError: the connection broke; what arrived is kept.
    """
    host = connection.host
    needed = sum(file.size for file in upload.files)
    prepared = connection.run(
        f"set -e; install -d -m 0700 -o {quote(host.user)} {STAGING}; install -d -m 0700 {STATE}/uploads\n"
        f"free=$(df -Pk {STAGING} | awk 'NR==2 {{print $4}}'); staged=$(du -sk {STAGING} | cut -f1)\n"
        f'if [ $((free + staged)) -lt {needed // 1024 + 1024} ]; then echo "No space left on device: '
        f'$((free / 1024)) MB are free, {needed // 1_048_576 + 1} MB are needed" >&2; exit 28; fi\n'
        f"install -d -o {quote(upload.owner)} -g {quote(upload.group)} {quote(upload.destination)}"
    )
    if prepared.status != 0:
        raise StepFailedError(
            f"{host.name} cannot take the files for {upload.destination}",
            why=prepared.error_text.strip(),
            fix=f"free some space on {host.name}" if prepared.status == 28 else f"look at {upload.destination} there",
        )
    for file in upload.files:
        _send(connection, file, progress)
    _place(connection, upload)


def _send(connection: Connection, file: BundleFile, progress: Progress) -> None:
    target = f"{STAGING}/{file.sha256}"
    sftp = connection.sftp()
    try:
        try:
            begun = sftp.stat(target).st_size or 0
        except FileNotFoundError:
            begun = 0
        if begun > file.size:
            sftp.remove(target)
            begun = 0
        with Path(file.source).open("rb") as local, sftp.open(target, "ab") as remote:
            local.seek(begun)
            remote.set_pipelined(True)
            sent = begun
            while chunk := local.read(CHUNK):
                remote.write(chunk)
                sent += len(chunk)
                progress(file.name, sent, file.size)
        _check_taken(sftp, target, file)
    except FileNotFoundError as error:
        raise BundleError(f"{file.source} is gone", why=str(error), fix="run: qaicl provision bundle") from error
    except (EOFError, paramiko.SSHException) as error:
        raise unreachable(connection.host, f"the connection broke while {file.name} was sent: {error}") from error
    except (OSError, paramiko.SFTPError) as error:
        # The machine's refusal and a connection that breaks look alike: only who still answers has refused.
        connection.run("true", timeout=20.0)
        raise StepFailedError(
            f"{connection.host.name} did not take {file.name}",
            why=str(error) or type(error).__name__,
            fix=f"is the disk full? Look at {STAGING} there",
        ) from error


def _check_taken(sftp: paramiko.SFTPClient, target: str, file: BundleFile) -> None:
    """Writes are not waited for one by one, and paramiko does not tell of those that the disk did not take.

    Raises:
        OSError: some were not. What arrived is removed, for something is missing in the middle of it.
    """
    taken = sftp.stat(target).st_size
    if taken != file.size:
        sftp.remove(target)
        raise OSError(f"{taken} of {file.size} bytes arrived")


def _place(connection: Connection, upload: Upload) -> None:
    destination = quote(upload.destination)
    checks = "".join(f"{file.sha256}  {file.sha256}\n" for file in upload.files)
    # Files with the same content arrive once: the last one is moved, the others are copies.
    last = {file.sha256: file.name for file in upload.files}
    moves = "\n".join(
        f'p={destination}/{quote(file.name)}; d=$(dirname "$p"); t="$d/.qaicl.{file.sha256[:16]}"\n'
        f'install -d -o {quote(upload.owner)} -g {quote(upload.group)} "$d"\n'
        f"chown {quote(upload.owner)}:{quote(upload.group)} {file.sha256}; chmod 0644 {file.sha256}\n"
        # By a name beside it, so that it appears whole also where the staging directory is on another disk.
        f'{"mv -fT" if last[file.sha256] == file.name else "cp -pT"} {file.sha256} "$t"; mv -fT "$t" "$p"'
        for file in upload.files
    )
    kept = "\n".join(
        f'p={destination}/{quote(file.name)}; [ -f "$p" ] && '
        f"printf '%s %s %s\\n' {file.sha256} \"$(find \"$p\" -printf '%s %T@')\" {quote(file.name)}"
        for file in upload.all_files
    )
    script = (
        f"set -e; umask 022; cd {STAGING}; t=; trap 'rm -f \"$t\"' EXIT\n"
        # Checked before anything is moved, so that a damaged file never lies in its place.
        f"bad=$(printf '%s' {quote(checks)} | LC_ALL=C sha256sum -c 2>/dev/null | sed -n 's/: FAILED.*//p')\n"
        '[ -z "$bad" ] || { echo "$bad" >&2; rm -f $bad; exit 65; }\n'
        f"{moves}\nset +e\n{{\n{kept}\n}} > {upload.marker}.part\nmv -f {upload.marker}.part {upload.marker}"
    )
    result = connection.run(script)
    if result.status == 65:
        names = {file.sha256: file.name for file in upload.files}
        bad = ", ".join(names.get(line.strip(), line) for line in result.error_text.splitlines())
        raise BundleError(
            f"{bad} arrived on {connection.host.name} with a wrong checksum",
            why="its sha256 is not the manifest's; it was removed there",
            fix="check the bundle: qaicl provision bundle --verify, then run it again",
        )
    if result.status != 0:
        raise StepFailedError(
            f"{connection.host.name} cannot place the files in {upload.destination}",
            why=result.error_text.strip() or f"exit status {result.status}",
            fix=f"is its disk full or read-only? Look at {upload.destination} there",
        )
