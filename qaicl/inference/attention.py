"""Attention of a batch's rows over the positions of their own requests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qaicl.inference.cache import KvSlot

_BLOCK = 256
"""Rows of a prefill that attend at once: bounds the mask to 256 x group x positions."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows ``first`` to ``after`` of a span, the number of positions they may see, and who may see what."""

    first: int
    after: int
    seen: int
    mask: Tensor | None
    """Float, [group x rows, seen]: 0 or minus infinity. None for a single row, which sees everything."""


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one request in a batch: ``row`` to ``row + count``, at positions from ``start``."""

    slot: KvSlot
    start: int
    row: int
    count: int
    blocks: tuple[Block, ...]


def make_span(slot: KvSlot, start: int, row: int, count: int, group: int, like: Tensor) -> Span:
    """Prepare a span once for all layers; ``group`` is the number of query heads that share a key head."""
    blocks = []
    for first in range(0, count, _BLOCK):
        after = min(first + _BLOCK, count)
        seen = start + after
        mask = None
        if after - first > 1:
            rows = torch.arange(start + first, seen, device=like.device)
            hidden = torch.arange(seen, device=like.device)[None, :] > rows[:, None]
            mask = like.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf")).repeat(group, 1)
        blocks.append(Block(first, after, seen, mask))
    return Span(slot, start, row, count, tuple(blocks))


def attend(span: Span, layer: int, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> None:
    """Write the span's attention into its rows of ``out`` [rows, heads, head_dim].

    The query heads of a group are given as further query rows of their one key head, so that keys and values are
    read once and never repeated.
    """
    rows = slice(span.row, span.row + span.count)
    all_keys, all_values = span.slot.write(layer, span.start, keys[rows], values[rows])
    kv_heads, _, head_dim = all_keys.shape
    for block in span.blocks:
        count = block.after - block.first
        at = slice(span.row + block.first, span.row + block.after)
        # [rows, kv_heads, group, head_dim] -> [kv_heads, group x rows, head_dim]
        query = queries[at].view(count, kv_heads, -1, head_dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, head_dim)
        mixed = functional.scaled_dot_product_attention(
            query[None], all_keys[None, :, : block.seen], all_values[None, :, : block.seen], attn_mask=block.mask
        )
        grouped = mixed.view(kv_heads, -1, count, head_dim).permute(2, 0, 1, 3)
        out[at].view(count, kv_heads, -1, head_dim).copy_(grouped)
