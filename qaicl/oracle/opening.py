"""The store that a command works on, and the asset it asks about."""

from __future__ import annotations

from qaicl.errors import UnknownAssetError
from qaicl.oracle.recording import DEFAULT_ASSET, recorded_store
from qaicl.oracle.store import Store
from qaicl.settings import Settings


def open_store(settings: Settings, *, recorded: bool = False) -> Store:
    """The context's store, or the recorded one.

    Raises:
        OracleStoreError: the database fails.
        SettingsError: ``oracle.database_url`` or its password file is wrong.
    """
    if recorded:
        return recorded_store()
    return Store.open(settings.values.oracle, settings.paths, settings.context)


def known_asset(settings: Settings, store: Store, asset: str | None) -> str:
    """The asset asked for; the first of the settings, or the recorded default, where None is.

    Raises:
        UnknownAssetError: the settings, or the records, do not know it.
    """
    known = store.assets() if store.recorded else list(settings.values.oracle.assets)
    if asset is None:
        asset = DEFAULT_ASSET if store.recorded else (known[0] if known else "")
    if asset not in known:
        raise UnknownAssetError(
            f"there is no asset '{asset}'",
            why=f"known are {', '.join(known) or 'none'}",
            fix="name one of them" if store.recorded else "name one of them, or add it to oracle.assets in config.toml",
        )
    return asset
