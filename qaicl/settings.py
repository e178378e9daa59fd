"""The one typed configuration.

Values come from four places, later ones winning: the defaults below, the user's ``config.toml``, the
context's ``config.toml``, ``QAICL_<SECTION>_<KEY>`` environment variables, and command-line flags.
``Settings.origin`` remembers where each value came from, for ``qaicl config show --origin``.

Everything qaicl writes lies under three directories: platformdirs' user directories, or below ``QAICL_HOME``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from qaicl.errors import SettingsError

Precision = Literal["auto", "float32", "bfloat16", "int8", "int4"]
Policy = Literal["round-robin", "weighted-round-robin", "least-connections", "resource-aware", "consistent-hash"]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration file."""


class ClusterSettings(Section, frozen=True):
    """How a local cluster is started."""

    nodes: Count = 3
    orchestrators: Count = 2
    model: str = "smollm2-135m"
    precision: Precision = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Compute threads a node; 0 shares the machine's cores among the local nodes."""


class StoreSettings(Section, frozen=True):
    """Redis: an empty URL means the embedded Valkey server."""

    url: str = ""
    username: str = ""
    password_file: str = ""
    """A file only its owner can read; a password never stands in the URL."""
    sentinel_service: str = "qaicl"
    sentinel_password_file: str = ""
    """The same for the Sentinels' own password; empty: they have none."""
    namespace: str = "qaicl"
    result_ttl: Seconds = 86_400.0


class BalancingSettings(Section, frozen=True):
    """How a request finds its pipeline."""

    policy: Policy = "resource-aware"


class LivenessSettings(Section, frozen=True):
    """When a peer counts as dead, in seconds."""

    heartbeat: Seconds = 1.0
    missed: Count = 3
    register_every: Seconds = 5.0
    register_ttl: Seconds = 15.0
    lease_ttl: Seconds = 3.0


class LimitSettings(Section, frozen=True):
    """Bounds that keep memory flat under overload."""

    queue: Count = 1000
    running_per_node: Count = 16
    task_timeout: Seconds = 30.0
    retries: Annotated[int, msgspec.Meta(ge=0)] = 3
    retry_base: Seconds = 0.2


class ModelSettings(Section, frozen=True):
    """Where models come from and lie."""

    directory: str = ""
    hub: str = "https://huggingface.co"
    token_file: str = ""
    """The hub's token, in a file only its owner can read; the environment variable HF_TOKEN wins over it."""


class AssetSettings(Section, frozen=True):
    """What an asset is called by each source."""

    names: tuple[str, ...] = ()
    """Words that name it in a headline; the asset's own key always counts."""
    coingecko: str = ""
    """CoinGecko's coin id; empty: not asked there."""
    markets: dict[str, str] = {}
    """Exchange (a ccxt id) to unified symbol, such as ``{mexc = "QUBIC/USDT"}``."""
    network: Literal["", "qubic"] = ""
    """The network whose figures belong to it."""


ASSETS: dict[str, AssetSettings] = {
    "qubic": AssetSettings(
        names=("qubic",),
        coingecko="qubic-network",
        markets={"mexc": "QUBIC/USDT", "gate": "QUBIC/USDT"},
        network="qubic",
    ),
    "bitcoin": AssetSettings(
        names=("bitcoin", "btc"), coingecko="bitcoin", markets={"mexc": "BTC/USDT", "gate": "BTC/USDT"}
    ),
}
FEEDS: dict[str, str] = {
    "coindesk": "https://www.coindesk.com/arc/outboundfeeds/rss/",
    "cointelegraph": "https://cointelegraph.com/rss",
    "decrypt": "https://decrypt.co/feed",
}


class OracleSettings(Section, frozen=True):
    """What the oracle collects, how often, and when a figure is too old.

    API keys never stand here: see :mod:`qaicl.oracle.keys`.
    """

    assets: dict[str, AssetSettings] = msgspec.field(default_factory=lambda: dict(ASSETS))
    disabled_sources: tuple[str, ...] = ()
    endpoints: dict[str, str] = {}
    """Source to root URL, in place of its public one."""
    coingecko_plan: Literal["demo", "pro"] = "demo"
    feeds: dict[str, str] = msgspec.field(default_factory=lambda: dict(FEEDS))
    """RSS or Atom feeds, name to URL."""
    candle_interval: Literal["5m", "15m", "1h", "4h", "1d"] = "1h"
    history_days: Annotated[int, msgspec.Meta(ge=1, le=365)] = 30
    """How far back holes are filled."""
    retention_days: Annotated[int, msgspec.Meta(ge=1)] = 400
    refresh_every: Seconds = 3600.0
    risk_every: Seconds = 3600.0
    min_sources: Count = 2
    """Fewer agreeing sources make a figure DEGRADED."""
    price_max_age: Seconds = 7200.0
    network_max_age: Seconds = 7200.0
    mood_max_age: Seconds = 172_800.0
    headlines_max_age: Seconds = 172_800.0
    source_max_age: dict[str, Seconds] = {}
    """Source to staleness limit of its figures, in place of the ones above."""
    request_timeout: Seconds = 15.0
    """For one whole reply, not only its first byte."""
    max_reply_bytes: Count = 33_554_432
    calls_a_minute: dict[str, Count] = {}
    """Source to limit, in place of the built-in one."""
    calls_a_day: dict[str, Count] = {}
    keys_file: str = ""
    """TOML ``coingecko = "..."``, readable by its owner only; environment variables win over it."""
    database_url: str = ""
    """A SQLAlchemy URL without a password; empty: SQLite below the data directory."""
    database_password_file: str = ""


class SentimentSettings(Section, frozen=True):
    """How headlines are read."""

    model: str = ""
    """A sequence classifier of the model store, such as a pulled FinBERT; empty: the shipped adapter."""
    adapter: str = ""
    """An adapter file made by ``qaicl oracle train``; empty: the shipped one."""
    half_life_hours: Seconds = 24.0
    window_hours: Seconds = 168.0
    """Older headlines are not read."""
    social_weight: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    """Weight of a social post beside a news story."""
    outlet_weights: dict[str, Annotated[float, msgspec.Meta(ge=0)]] = {}
    """Outlet, lower case, to weight; 1 where not named."""


class SinkSettings(Section, frozen=True):
    """Where alerts are sent. Secrets stand in a file that only its owner can read."""

    kind: Literal["log", "monitor", "webhook", "smtp", "telegram"]
    path: str = ""
    """log: the file; empty: ``alerts.jsonl`` in the state directory."""
    url: str = ""
    """webhook: where to POST; telegram: the API's root; monitor: the Redis URL, without a password."""
    secret_file: str = ""
    """webhook: a bearer token; smtp and monitor: the password; telegram: the bot's token."""
    chat: str = ""
    host: str = ""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 587
    user: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()
    starttls: bool = True
    at_most_once: bool = False
    """Rather lose an alert when killed while sending than risk a second copy (smtp, telegram)."""


class RouteSettings(Section, frozen=True):
    """Which alerts go to which sinks; the first route whose labels all match is taken."""

    sinks: tuple[str, ...]
    match: dict[str, str] = {}


class InhibitSettings(Section, frozen=True):
    """An alert that matches ``source`` silences those that match ``target`` and agree in the labels ``equal``."""

    source: dict[str, str]
    target: dict[str, str]
    equal: tuple[str, ...] = ()


SINKS: dict[str, SinkSettings] = {"log": SinkSettings(kind="log")}


class AlertSettings(Section, frozen=True):
    """When the oracle raises alerts, and to whom."""

    risk_from: Annotated[float, msgspec.Meta(ge=0, le=100)] = 70.0
    risk_margin: Annotated[float, msgspec.Meta(ge=0, le=50)] = 5.0
    """Risk must fall so far below ``risk_from`` before the alert is resolved."""
    group_by: tuple[str, ...] = ("asset", "alert")
    group_wait: Seconds = 30.0
    group_interval: Seconds = 300.0
    repeat_interval: Seconds = 14_400.0
    sinks: dict[str, SinkSettings] = msgspec.field(default_factory=lambda: dict(SINKS))
    routes: tuple[RouteSettings, ...] = (RouteSettings(sinks=("log",)),)
    inhibit: tuple[InhibitSettings, ...] = (
        InhibitSettings(source={"level": "critical"}, target={"level": "warning"}, equal=("asset", "alert")),
    )


class Values(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All sections."""

    cluster: ClusterSettings = ClusterSettings()
    store: StoreSettings = StoreSettings()
    balancing: BalancingSettings = BalancingSettings()
    liveness: LivenessSettings = LivenessSettings()
    limits: LimitSettings = LimitSettings()
    models: ModelSettings = ModelSettings()
    oracle: OracleSettings = OracleSettings()
    alerts: AlertSettings = AlertSettings()
    sentiment: SentimentSettings = SentimentSettings()


@dataclass(frozen=True)
class Paths:
    """The directories of one qaicl installation."""

    config: Path
    data: Path
    state: Path

    @classmethod
    def find(cls, environ: Mapping[str, str] | None = None) -> Paths:
        """The directories for this user, or below ``QAICL_HOME`` where that is set."""
        environ = os.environ if environ is None else environ
        if home := environ.get("QAICL_HOME"):
            root = Path(home).expanduser().absolute()
            return cls(root / "config", root / "data", root / "state")
        import platformdirs

        return cls(
            Path(platformdirs.user_config_dir("qaicl")),
            Path(platformdirs.user_data_dir("qaicl")),
            Path(platformdirs.user_state_dir("qaicl")),
        )

    def context(self, name: str) -> Path:
        """Configuration, endpoints and keys of one context (cluster)."""
        return self.config / "contexts" / name

    def run(self, name: str) -> Path:
        """Process ids, sockets and logs of a context's local daemons."""
        return self.state / "contexts" / name

    def models(self, settings: ModelSettings) -> Path:
        """The model store."""
        return Path(settings.directory).expanduser() if settings.directory else self.data / "models"


@dataclass(frozen=True)
class Settings:
    """The merged values and where each came from."""

    values: Values
    paths: Paths
    context: str
    origin: dict[str, str] = field(default_factory=dict)


def _flatten(table: Mapping[str, Any], where: str) -> dict[str, tuple[Any, str]]:
    flat: dict[str, tuple[Any, str]] = {}
    for section, values in table.items():
        if not isinstance(values, Mapping):
            raise SettingsError(
                f"'{section}' in {where} is not a section",
                why="a setting stands inside a [section]",
                fix="run: qaicl config show",
            )
        for key, value in values.items():
            flat[f"{section}.{key}"] = (value, where)
    return flat


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        with path.open("rb") as file:
            return _flatten(tomllib.load(file), str(path))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"cannot read {path}", why=str(error), fix="mend the file, it is TOML") from error


def _from_environ(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    flat: dict[str, tuple[Any, str]] = {}
    for section in msgspec.structs.fields(Values):
        for key in msgspec.structs.fields(section.type):
            variable = f"QAICL_{section.name}_{key.name}".upper()
            if variable in environ:
                flat[f"{section.name}.{key.name}"] = (environ[variable], f"environment {variable}")
    return flat


def load(
    context: str | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge all layers.

    Args:
        context: the cluster's name; None takes ``QAICL_CONTEXT`` or ``default``.
        flags: ``{"section.key": value}`` from the command line; None values are not set.
        environ: the environment, ``os.environ`` unless given.

    Raises:
        SettingsError: a file is not TOML, a name is unknown or a value does not fit.
    """
    environ = os.environ if environ is None else environ
    paths = Paths.find(environ)
    context = context or environ.get("QAICL_CONTEXT") or "default"
    if "/" in context or context.startswith("."):
        raise SettingsError(f"'{context}' is not a context name", why="it must be a plain file name")
    layers = [
        _from_file(paths.config / "config.toml"),
        _from_file(paths.context(context) / "config.toml"),
        _from_environ(environ),
        {key: (value, "flag") for key, value in (flags or {}).items() if value is not None},
    ]
    merged: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for dotted, (value, where) in layer.items():
            section, _, key = dotted.partition(".")
            merged.setdefault(section, {})[key] = value
            origin[dotted] = where
            try:
                msgspec.convert({section: {key: value}}, Values, strict=False)
            except msgspec.ValidationError as error:
                raise SettingsError(
                    f"setting '{dotted}' from {where} does not fit",
                    why=str(error).split(" - at")[0],
                    fix="run: qaicl config show",
                ) from error
    return Settings(msgspec.convert(merged, Values, strict=False), paths, context, origin)
