"""What can go wrong in the lab itself, apart from what the lab is there to show."""

from __future__ import annotations


class LabError(Exception):
    """The lab could not do what was asked."""


class LabUnsupportedError(LabError):
    """This machine cannot carry a lab: not root, or the kernel lacks a part."""


class LabBusyError(LabError):
    """Another process works with the lab of this name."""


class GuestOffError(LabError):
    """The guest is not running."""


class NotReadyError(LabError):
    """A condition that was waited for did not come true in time."""
