"""The one error tree.

Every error tells three things: *what* happened, *why*, and what to do (*fix*). The class decides the
process exit code, so that a script can branch on it:

====  ===========================================
code  meaning
====  ===========================================
1     failed
2     usage: the command line or a file is wrong
3     changes pending (``provision plan``)
4     unreachable: no cluster, host or service
5     not authorised
130   interrupted
====  ===========================================
"""

from __future__ import annotations

from typing import ClassVar


class QaiclError(Exception):
    """Base of every error that qaicl raises on purpose.

    Args:
        what: what happened, one sentence, without a trailing full stop.
        why: the cause, as far as it is known.
        fix: what the reader can do about it, preferably a command.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        if self.fix:
            text += f" ({self.fix})"
        return text

    def as_dict(self) -> dict[str, str | int]:
        """The error as plain data, for ``-o json`` and for the wire."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


# --- what the exit codes stand for ---------------------------------------------------------------


class UsageError(QaiclError):
    """The command line, a setting or an input file is wrong."""

    exit_code = 2


class ChangesPendingError(QaiclError):
    """A plan found something to change."""

    exit_code = 3


class UnreachableError(QaiclError):
    """No cluster, host or service answers."""

    exit_code = 4


class NotAuthorisedError(QaiclError):
    """A key, host key or credential was refused."""

    exit_code = 5


class InterruptedByUserError(QaiclError):
    """The user stopped the command."""

    exit_code = 130


# --- settings ------------------------------------------------------------------------------------


class SettingsError(UsageError):
    """A setting is unknown or does not fit its type."""


# --- models --------------------------------------------------------------------------------------


class ModelError(QaiclError):
    """Something about a model failed."""


class UnknownModelError(ModelError, UsageError):
    """The catalogue has no model of that name."""

    exit_code = 2


class CatalogueError(ModelError, UsageError):
    """An entry of the model catalogue does not fit."""

    exit_code = 2


class ModelMissingError(ModelError):
    """The model is in the catalogue but not in the local store."""


class DamagedFileError(ModelError):
    """A file's bytes do not match its recorded checksum or format."""


class DownloadError(ModelError):
    """A download failed for good; what arrived is kept for resuming."""


class DownloadUnreachableError(DownloadError, UnreachableError):
    """The place a model comes from does not answer."""

    exit_code = 4


class DownloadRefusedError(DownloadError, NotAuthorisedError):
    """The place a model comes from wants a token, or refused the one it got."""

    exit_code = 5


class NoSpaceError(ModelError):
    """The disk has not enough room."""


class UnsupportedModelError(ModelError):
    """The model's architecture or format is not one that qaicl can run."""


# --- inference -----------------------------------------------------------------------------------


class InferenceError(QaiclError):
    """The engine could not compute."""


class PromptError(InferenceError, UsageError):
    """The prompt is empty or longer than the model's context."""

    exit_code = 2


class NoCapacityError(InferenceError):
    """No memory or slot is left for one more request."""


# --- cluster and wire ----------------------------------------------------------------------------


class ClusterError(QaiclError):
    """The cluster could not do what was asked."""


class BusyError(ClusterError):
    """The queue is full.

    Args:
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, what: str, *, retry_after: float, why: str = "", fix: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.retry_after = retry_after


class RequestFailedError(ClusterError):
    """A request ended without an answer."""


class WireError(ClusterError):
    """A message could not be sent, or what arrived is not one."""


class BadFrame(WireError):  # noqa: N818 - the field's word
    """What arrived is not a message of this protocol; drop it.

    Args:
        reason: one of a few fixed words, for counting.
    """

    def __init__(self, reason: str, *, why: str = "") -> None:
        super().__init__(f"dropped a frame ({reason})", why=why)
        self.reason = reason


class StoreError(ClusterError, UnreachableError):
    """Redis does not answer or refused."""

    exit_code = 4


class PortTakenError(ClusterError):
    """Another process listens on the port."""


# --- oracle --------------------------------------------------------------------------------------


class OracleError(QaiclError):
    """The oracle could not do what was asked."""


class NothingStoredError(OracleError):
    """No observation is stored that the question could be answered from."""


class UnknownAssetError(OracleError, UsageError):
    """The settings name no such asset."""

    exit_code = 2


class OracleStoreError(OracleError, UnreachableError):
    """The oracle's database does not answer, refused, or is damaged."""

    exit_code = 4


class BadDatasetError(OracleError, UsageError):
    """A file of labelled text or of history does not fit."""

    exit_code = 2


class TooLittleHistoryError(OracleError):
    """There are not enough candles for what was asked."""


class SourceError(OracleError, UnreachableError):
    """A source did not answer with usable data.

    Args:
        source: the source's name.
        retry_after: seconds after which the source may be asked again; None: the usual back-off.
    """

    exit_code = 4

    def __init__(
        self, what: str, *, source: str, retry_after: float | None = None, why: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.source = source
        self.retry_after = retry_after


class BadReplyError(SourceError):
    """The source answered with something that is not what its documentation says."""


class QuotaError(SourceError):
    """The source's quota is used up, or it told us to wait."""


class KeyRefusedError(SourceError, NotAuthorisedError):
    """The source wants an API key or refused the one it got."""

    exit_code = 5


# --- provisioning --------------------------------------------------------------------------------


class ProvisionError(QaiclError):
    """Bringing machines to their described state failed."""


class InventoryError(ProvisionError, UsageError):
    """The inventory file is wrong; ``why`` has the line number."""

    exit_code = 2


class PlaybookError(ProvisionError, UsageError):
    """A playbook is wrong."""

    exit_code = 2


class SecretError(ProvisionError, UsageError):
    """A secret that the inventory refers to cannot be read."""

    exit_code = 2


class HostUnreachableError(ProvisionError, UnreachableError):
    """A machine does not answer over SSH, or stopped answering."""

    exit_code = 4


class HostRefusedError(ProvisionError, NotAuthorisedError):
    """A machine showed another host key than the pinned one, or refused our key or sudo password."""

    exit_code = 5


class WrongHostKeyError(HostRefusedError):
    """A machine showed another host key than the pinned one; nothing was sent to it."""


class UnsupportedHostError(ProvisionError):
    """The machine's distribution or hardware is not one that the playbooks know."""


class StepFailedError(ProvisionError):
    """A command on a machine failed."""


class LockedError(ProvisionError):
    """Another controller works on the machine."""


class StalePlanError(ProvisionError):
    """The machines no longer are as they were when the plan was made."""


class BundleError(ProvisionError):
    """What the machines shall install could not be gathered, or arrived damaged."""


class SinkError(OracleError, UnreachableError):
    """An alert could not be delivered; it stays in the outbox.

    Args:
        retry_after: seconds after which the receiver wants to be asked again; None: the usual back-off.
        permanent: trying again is of no use, or does harm, until the operator has mended something.
        unknown: the receiver may have taken it all the same.
    """

    exit_code = 4

    def __init__(
        self,
        what: str,
        *,
        retry_after: float | None = None,
        permanent: bool = False,
        unknown: bool = False,
        why: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(what, why=why, fix=fix)
        self.retry_after = retry_after
        self.permanent = permanent
        self.unknown = unknown
