"""Questions that several commands put to the leader."""

from __future__ import annotations

from typing import Any, Literal

from qaicl.settings import Settings


def cluster_status(settings: Settings) -> dict[str, Any]:
    """The leader's status.

    Raises:
        UnreachableError: no cluster answers.
    """
    from qaicl.wire.client import Client
    from qaicl.wire.messages import StatusQuery, StatusReply

    with Client(settings.paths.context(settings.context)) as client:
        status: dict[str, Any] = client.call(StatusQuery(), StatusReply).status
        status["orchestrators"] = client.orchestrators()
        return status


def node_command(settings: Settings, node: str, action: Literal["drain", "resume", "remove"]) -> str:
    """Have the leader do something with a node; returns what was done."""
    from qaicl.wire.client import Client
    from qaicl.wire.messages import Done, NodeCommand

    with Client(settings.paths.context(settings.context)) as client:
        return client.call(NodeCommand(node, action), Done).what
