"""The messages between clients, orchestrators and nodes.

Each is a msgspec struct with a tag; the frame around it carries the protocol version. Where a leader speaks, its
``epoch`` comes along, and a node refuses an older one. ``attempt`` numbers the plans of one request, growing over
all leaders (see ``qaicl.cluster.ids``), so that anything sent for an earlier plan is told apart and dropped.
"""

from __future__ import annotations

import secrets
from typing import Literal

import msgspec

from qaicl.inference.engine import ChatMessage, Sampling

Mode = Literal["auto", "split", "replica"]


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="kind"):
    """Base of everything that crosses the wire."""


def new_id() -> str:
    """A fresh request or trace id: 128 random bits."""
    return secrets.token_hex(16)


# --- parts ---------------------------------------------------------------------------------------


class StageRef(msgspec.Struct, frozen=True, array_like=True):
    """Layers ``first..last`` (inclusive) on one node."""

    node: str
    first: int
    last: int


class Peer(msgspec.Struct, frozen=True, array_like=True):
    """Where a node listens; ``incarnation`` is new at every start of its process."""

    name: str
    endpoint: str
    public_key: str
    incarnation: str


class NodeRecord(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of itself when it registers.

    ``layer_seconds`` and ``ends_seconds`` are its measured decode times (one layer; embedding plus head);
    ``max_layers`` how many layers its memory holds.
    """

    name: str
    incarnation: str
    endpoint: str
    public_key: str
    pid: int
    host: str
    model: str
    digest: str
    precision: str
    layers: int
    max_layers: int
    layer_seconds: float
    ends_seconds: float


class Load(msgspec.Struct, frozen=True, array_like=True):
    """A node's load now: percentages 0 to 100, bytes, and milliseconds of its mean decode step."""

    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    memory_free: int = 0
    step_ms: float = 0.0


class RequestSpec(msgspec.Struct, frozen=True, array_like=True):
    """One prompt with its sampling parameters; ``id`` is made by the client and is its idempotency key."""

    id: str
    trace: str
    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    mode: Mode = "auto"
    stages: int = 0


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One generated token: its id and the text it made visible. ``finish`` is "", "stop" or "length"."""

    id: int
    text: str
    finish: str = ""


class Failover(msgspec.Struct, frozen=True):
    """One replaced stage: when the fault was noticed after the last sign of life, and how long no token came."""

    stage: int
    from_node: str = msgspec.field(name="from")
    to_node: str = msgspec.field(name="to", default="")
    reason: str = ""
    detected_ms: float = 0.0
    gap_ms: float = 0.0


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How a request ended; kept for as long as results are kept."""

    id: str
    trace: str
    model: str
    mode: str
    pipeline: tuple[StageRef, ...]
    prompt_tokens: int
    finish_reason: str
    seed: int
    queued_ms: float
    first_token_ms: float
    total_ms: float
    failovers: tuple[Failover, ...] = ()
    reasons: tuple[str, ...] = ()
    error: str = ""
    why: str = ""
    fix: str = ""


# --- leader to node ------------------------------------------------------------------------------


class HealthCheck(Message, frozen=True):
    """Are you there? Answered by ``Heartbeat``."""

    epoch: int
    leader: str
    seq: int


class ConfigUpdate(Message, frozen=True):
    """The nodes of the cluster, so that each can open links to all others."""

    epoch: int
    leader: str
    peers: tuple[Peer, ...]


class TaskAssignment(Message, frozen=True):
    """Serve stage ``index`` of a pipeline for a request; ``generated`` are the tokens it already has."""

    epoch: int
    leader: str
    trace: str
    request: str
    attempt: int
    incarnation: str
    stages: tuple[StageRef, ...]
    index: int
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    generated: tuple[int, ...]


class Release(Message, frozen=True):
    """Forget a task: every attempt of the request up to this one."""

    epoch: int
    leader: str
    request: str
    attempt: int


class Emergency(Message, frozen=True):
    """Take no new work (``drain``), take work again (``resume``), or end in good order now (``stop``)."""

    epoch: int
    leader: str
    action: Literal["drain", "resume", "stop"]


# --- node to leader ------------------------------------------------------------------------------


class Register(Message, frozen=True):
    """A node's first words to a leader, and again whenever its record changes."""

    record: NodeRecord


class Heartbeat(Message, frozen=True):
    """A node is alive: its load, the tasks it holds as (request, attempt), and the peers it cannot reach."""

    name: str
    incarnation: str
    seq: int
    load: Load
    tasks: tuple[tuple[str, int], ...]
    unreachable: tuple[str, ...]
    draining: bool = False


class Tokens(Message, frozen=True):
    """Generated tokens from ``first`` on; from the last stage to the leader, and on to the client."""

    request: str
    attempt: int
    first: int
    tokens: tuple[Token, ...]
    prompt_tokens: int = 0
    finish: str = ""


class Failed(Message, frozen=True):
    """A task could not go on. ``blame`` names the peer that could not be reached, if that was it."""

    request: str
    attempt: int
    what: str
    why: str = ""
    fix: str = ""
    retryable: bool = True
    blame: str = ""


class StaleEpoch(Message, frozen=True):
    """Refused: a newer leader has spoken."""

    epoch: int
    leader: str


# --- node to node --------------------------------------------------------------------------------


class PartialResult(Message, frozen=True):
    """Hidden states [positions, hidden size] from ``start`` on; the payload frame holds them."""

    request: str
    attempt: int
    start: int
    positions: int
    dtype: str
    sample: bool


class NextToken(Message, frozen=True):
    """The sampled token, back to the first stage."""

    request: str
    attempt: int
    position: int
    token: int


# --- client to orchestrator ----------------------------------------------------------------------


class Submit(Message, frozen=True):
    """Answer this; the client has the first ``have`` tokens already."""

    spec: RequestSpec
    have: int = 0


class Resume(Message, frozen=True):
    """Go on sending a request that was submitted before."""

    request: str
    have: int = 0


class Cancel(Message, frozen=True):
    """The client no longer wants the answer."""

    request: str


class StatusQuery(Message, frozen=True):
    """What is the cluster doing?"""


class PlanQuery(Message, frozen=True):
    """Where would such a request run, and why?"""

    mode: Mode
    stages: int


class NodeCommand(Message, frozen=True):
    """``drain``: finish what runs, take nothing new; ``resume``: take work again; ``remove``: end it and forget it."""

    node: str
    action: Literal["drain", "resume", "remove"]


# --- orchestrator to client ----------------------------------------------------------------------


class Accepted(Message, frozen=True):
    """The request is durable and will end exactly once."""

    request: str
    epoch: int


class Completed(Message, frozen=True):
    """The request has ended; every token went before."""

    outcome: Outcome


class Refused(Message, frozen=True):
    """The request was not accepted, or an admin command was not carried out."""

    request: str
    error: str
    what: str
    why: str = ""
    fix: str = ""
    retry_after: float = 0.0


class NotLeader(Message, frozen=True):
    """Ask another orchestrator; ``leader`` is its name where it is known."""

    leader: str


class StatusReply(Message, frozen=True):
    """The leader's view, as JSON-ready data."""

    status: dict[str, object]


class PlanReply(Message, frozen=True):
    """A plan with its reasons."""

    mode: str
    pipeline: tuple[StageRef, ...]
    reasons: tuple[str, ...]


class Done(Message, frozen=True):
    """An admin command was carried out."""

    what: str


AnyMessage = (
    HealthCheck
    | ConfigUpdate
    | TaskAssignment
    | Release
    | Emergency
    | Register
    | Heartbeat
    | Tokens
    | Failed
    | StaleEpoch
    | PartialResult
    | NextToken
    | Submit
    | Resume
    | Cancel
    | StatusQuery
    | PlanQuery
    | NodeCommand
    | Accepted
    | Completed
    | Refused
    | NotLeader
    | StatusReply
    | PlanReply
    | Done
)
