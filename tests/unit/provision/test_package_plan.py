"""A plan that installs from the bundle is a promise about which packages."""

from __future__ import annotations

from qaicl.provision.operations.base import BundleFile, Change, Install
from qaicl.provision.plan import change_digest


def _digest(names: tuple[str, ...], index: str, package: str = "bb") -> str:
    files = (BundleFile("Packages", 1, index), BundleFile("tool_1_all.deb", 1, package))
    return change_digest(Change("", (Install(names, files),)), b"key")


def test_other_names_or_another_index_are_another_plan() -> None:
    promised = _digest(("tool",), "aa")
    assert promised == _digest(("tool",), "aa")
    assert promised != _digest(("tool", "other"), "aa")
    assert promised != _digest(("tool",), "cc")


def test_the_index_speaks_for_the_packages() -> None:
    assert _digest(("tool",), "aa", "bb") == _digest(("tool",), "aa", "dd")
