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


def ask_text(settings: Settings, prompt: str, max_tokens: int = 300) -> str:
    """The cluster's greedy answer to a prompt.

    Raises:
        UnreachableError: no cluster answers.
        RequestFailedError: the request ended without an answer.
    """
    from qaicl.errors import RequestFailedError
    from qaicl.inference.engine import ChatMessage, Sampling
    from qaicl.wire.client import Client
    from qaicl.wire.messages import RequestSpec, new_id

    spec = RequestSpec(new_id(), new_id(), "", (ChatMessage("user", prompt),), Sampling(max_tokens=max_tokens))
    text = ""
    with Client(settings.paths.context(settings.context)) as client:
        for update in client.ask([spec]):
            text += "".join(token.text for token in update.tokens)
            if update.outcome is not None and update.outcome.error:
                raise RequestFailedError(update.outcome.error, why=update.outcome.why, fix=update.outcome.fix)
    return text


def node_command(settings: Settings, node: str, action: Literal["drain", "resume", "remove"]) -> str:
    """Have the leader do something with a node; returns what was done."""
    from qaicl.wire.client import Client
    from qaicl.wire.messages import Done, NodeCommand

    with Client(settings.paths.context(settings.context)) as client:
        return client.call(NodeCommand(node, action), Done).what
