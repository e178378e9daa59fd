"""Installing packages on a machine that has no mirror: its own apt says what it lacks, that is pushed, and installed.

The repository on the machine is a directory of root's. Its index comes over SSH and is verified there; apt then
verifies each package against the index. The machine's own sources, lists and caches are not read and not changed.
"""

from __future__ import annotations

from urllib.parse import unquote

from qaicl.errors import StepFailedError
from qaicl.provision.lock import guarded
from qaicl.provision.operations.base import PACKAGE_INDEX, STATE, BundleFile, Install, Upload, quote
from qaicl.provision.operations.package import APT, FINISH
from qaicl.provision.ssh import Connection, Result
from qaicl.provision.upload import Progress, push

DIRECTORY = "/var/lib/qaicl-packages"

_FIXES = {
    "No space left": "free some space there, then run it again",
    "enough free space": "free some space there, then run it again",
    "unmet dependencies": "the machine has newer packages than the bundle: qaicl provision bundle --refresh",
    "remove is disabled": "look at what the machine has that does not go with them; nothing was removed",
    "Unable to locate package": "gather the packages again: qaicl provision bundle --refresh",
    "Hash Sum mismatch": "a package was damaged there; run it again, it is brought anew",
}


def install(connection: Connection, action: Install, step: str, progress: Progress) -> None:
    """Bring the packages and what they depend on to the machine, and install them.

    Args:
        step: the step's name, for errors.

    Raises:
        BundleError: a file arrived damaged, or is damaged here.
        StepFailedError: the disk is full, or apt does not install them.
        HostUnreachableError: the connection broke; what arrived is kept.
    """
    files = {file.name: file for file in action.files}
    names = " ".join(quote(name) for name in action.names)
    _push(connection, [files[PACKAGE_INDEX]], progress)
    lacking = _lacking(_run(connection, _LOOK.format(**_words(), names=names), step).text, files)
    if lacking:
        _push(connection, lacking, progress)
    _run(connection, _INSTALL.format(**_words(), names=names), step)


def installed(connection: Connection) -> dict[str, str]:
    """What a machine has: package → source package."""
    shown = connection.run("dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${source:Package}\\n'", timeout=60.0)
    rows = [line.split() for line in shown.text.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0][1:] == "i"}


def _words() -> dict[str, str]:
    apt = (
        f"{APT} -o Dir::Etc::sourcelist={DIRECTORY}/sources.list -o Dir::Etc::sourceparts=- "
        f"-o Dir::State::lists={DIRECTORY}/lists -o Dir::Cache::archives={DIRECTORY}/archives "
        "-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Default-Release="
    )
    return {"finish": FINISH, "apt": apt, "directory": DIRECTORY, "index": PACKAGE_INDEX}


# What an interrupted run left half installed is finished first. What another bundle left goes. `trusted` because the
# index has no signature: it came from the operator, verified.
_LOOK = """set -e
{finish}cd {directory}; mkdir -p lists/partial archives/partial
echo 'deb [trusted=yes] file:{directory} ./' > sources.list
for f in *.deb; do grep -qxF "Filename: ./$f" {index} || rm -f "$f"; done
{apt} -o APT::Update::Error-Mode=any update >&2
{apt} -qq --print-uris install --no-remove --no-install-recommends {names}
echo =
sha256sum -- *.deb 2>/dev/null || true
"""

_INSTALL = """set -e
{apt} install --no-remove --no-install-recommends {names}
"""


def _push(connection: Connection, files: list[BundleFile], progress: Progress) -> None:
    marker = f"{STATE}/uploads/packages"
    push(connection, Upload(DIRECTORY, tuple(files), tuple(files), marker, "root", "root"), progress)


def _lacking(shown: str, files: dict[str, BundleFile]) -> list[BundleFile]:
    """What apt would take from the directory and is not there, or is another file."""
    lines = shown.splitlines()
    middle = lines.index("=")
    there = {name: digest for digest, _, name in (line.partition("  ") for line in lines[middle + 1 :])}
    wanted = [unquote(line.split("'")[1]).rpartition("/")[2] for line in lines[:middle] if line.startswith("'")]
    return [files[name] for name in wanted if there.get(name) != files[name].sha256]


def _run(connection: Connection, script: str, step: str) -> Result:
    result = connection.run(guarded(script), timeout=1800.0)
    if result.status == 0:
        return result
    said = result.error_text or result.text
    fix = next((fix for sign, fix in _FIXES.items() if sign in said), "mend that, then run it again")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    raise StepFailedError(f"{step} failed on {connection.host.name}", why=" / ".join(lines[-6:]), fix=fix)
