"""What a node knows, what can happen to it, and what it wants done."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from qaicl.inference.engine import Activation, ChatMessage, Sampling, Work
from qaicl.wire import messages as wire

# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaderSent:
    """A message from an orchestrator on the connection ``conn``."""

    conn: bytes
    message: wire.Message


@dataclass(frozen=True, slots=True)
class PeerSent:
    """A message from another node; ``data`` are the hidden states of a ``PartialResult``."""

    message: wire.Message
    data: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class Opened:
    """The engine holds a slot. ``finish`` says that the tokens so far already end the answer."""

    key: str
    prompt: tuple[int, ...]
    finish: str = ""


@dataclass(frozen=True, slots=True)
class Computed:
    """The engine is done with one piece: hidden states to pass on, or a token.

    A last stage makes neither of a piece that does not ask for a sample. ``sample`` is the piece's own flag.
    """

    key: str
    start: int
    sample: bool = False
    hidden: Activation | None = None
    token: wire.Token | None = None


@dataclass(frozen=True, slots=True)
class TaskBroke:
    """The engine could not open or compute a task."""

    key: str
    what: str
    why: str = ""
    fix: str = ""
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The link to a peer opened or closed."""

    peer: str
    up: bool


@dataclass(frozen=True, slots=True)
class Sampled:
    """The node's load, measured from time to time."""

    load: wire.Load


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = LeaderSent | PeerSent | Opened | Computed | TaskBroke | LinkChanged | Sampled | Tick


# --- actions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenTask:
    """Tokenise, reserve a slot, bring the text stream to where it was."""

    key: str
    first: int
    last: int
    is_last: bool
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    generated: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CloseTask:
    """Free the slot."""

    key: str


@dataclass(frozen=True, slots=True)
class Compute:
    """Run one piece; pieces of one task stay in order."""

    work: Work


@dataclass(frozen=True, slots=True)
class SendPeer:
    """To another node, directly."""

    peer: str
    message: wire.Message
    data: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class SendLeader:
    """To an orchestrator."""

    conn: bytes
    message: wire.Message


@dataclass(frozen=True, slots=True)
class ConnectPeers:
    """Have a link to each of these and to no other."""

    peers: tuple[wire.Peer, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process in good order."""


Action = OpenTask | CloseTask | Compute | SendPeer | SendLeader | ConnectPeers | Stop


# --- state ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Task:
    """One request's stage on this node."""

    assignment: wire.TaskAssignment
    key: str
    opened: bool = False
    prompt: int = 0
    history: tuple[int, ...] = ()
    expected: int = 0
    """Positions handed to the engine so far."""
    produced: int = 0
    """Generated tokens so far (last stage)."""
    held: list[tuple[wire.PartialResult, bytes | memoryview]] = field(default_factory=list)

    @property
    def is_first(self) -> bool:
        return self.assignment.index == 0

    @property
    def is_last(self) -> bool:
        return self.assignment.index == len(self.assignment.stages) - 1

    @property
    def next_node(self) -> str:
        """Whom this stage sends to: the next stage, from the last one the first."""
        return self.assignment.stages[(self.assignment.index + 1) % len(self.assignment.stages)].node


@dataclass(slots=True)
class Link:
    """A connection to a peer: ``up`` is None until it has opened or failed once."""

    up: bool | None = None
    since: float = 0.0
    waiting: list[SendPeer] = field(default_factory=list)


@dataclass(slots=True)
class NodeState:
    """Everything a node knows; changed only by ``step``."""

    record: wire.NodeRecord
    epoch: int = 0
    leader: str = ""
    conn: bytes = b""
    introduced: bytes = b""
    """The connection that has had our ``Register``."""
    heard: float = 0.0
    seq: int = 0
    draining: bool = False
    load: wire.Load = field(default_factory=wire.Load)
    tasks: dict[str, Task] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    peers: dict[str, wire.Peer] = field(default_factory=dict)
    early: OrderedDict[str, list[PeerSent]] = field(default_factory=OrderedDict)
    dropped: int = 0
    """Messages for tasks that are not held here."""
