"""Attention over a forest in torch, so that what sequences share goes through the model once, forward and back.

On a CPU, chain by chain: a chain is a stretch of the forest in which every token is the next one's parent. It meets
itself, causally, and its ancestors, all of them; the two are joined by the logarithms of their sums, which is exact.
So no mask is made, and nothing is computed that is not seen. On an accelerator FlexAttention computes whole blocks at a
time and leaves out those in which nothing is seen; it has no backward on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from askesis.models import Attention
from askesis.train.forest import Forest, Ints

BLOCK = 128  # tokens of a block of FlexAttention


def attention(forest: Forest, device: torch.device) -> Attention:
    """How a layer attends where a row [1, count] is this forest."""
    if device.type == "cpu":
        return ByChain(forest)
    return ByBlock(forest, device)


# -- on a CPU ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """Tokens first..last - 1. ancestors: where what all of them see lies: a slice, or places [n]; None: nothing."""

    first: int
    last: int
    ancestors: slice | Tensor | None


def chains(forest: Forest) -> list[Chain]:
    """The forest's tokens, each in one chain; as many chains as there are leaves."""
    starts, ends, parents = forest.starts, forest.starts + forest.lengths, forest.parents
    heads = [s for s in range(len(starts)) if s == 0 or parents[s] != s - 1]
    found = []
    for head, after in zip(heads, [*heads[1:], len(starts)], strict=True):
        pieces: list[tuple[int, int]] = []
        segment = int(parents[head])
        while segment >= 0:
            first, last = int(starts[segment]), int(ends[segment])
            if pieces and pieces[-1][0] == last:
                pieces[-1] = (first, pieces[-1][1])
            else:
                pieces.append((first, last))
            segment = int(parents[segment])
        ancestors: slice | Tensor | None = None
        if len(pieces) == 1:
            ancestors = slice(*pieces[0])
        elif pieces:
            ancestors = torch.from_numpy(np.concatenate([np.arange(*piece) for piece in reversed(pieces)]))
        found.append(Chain(first=int(starts[head]), last=int(ends[after - 1]), ancestors=ancestors))
    return found


class ByChain:
    """Exact attention over a forest on a CPU, with a backward."""

    def __init__(self, forest: Forest) -> None:
        self._chains = chains(forest)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [1, H, T, hd], k and v [1, KV, T, hd] -> [1, H, T, hd]."""
        mixed: Tensor = _ByChain.apply(q, k, v, self._chains)  # type: ignore[no-untyped-call]
        return mixed


class _ByChain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, along: Sequence[Chain]) -> Tensor:
        out = torch.empty_like(q)
        sums = torch.empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
        for chain in along:
            here = slice(chain.first, chain.last)
            queries = q[:, :, here]
            mixed, total = _attend(queries, _spread(k[:, :, here], q), _spread(v[:, :, here], q), causal=True)
            if chain.ancestors is not None:
                far = _folded(queries, k)
                before, beyond = _attend(far, k[:, :, chain.ancestors], v[:, :, chain.ancestors], causal=False)
                before, beyond = before.reshape(queries.shape), beyond.reshape(total.shape)
                both = torch.logaddexp(total, beyond)
                mixed = mixed * (total - both).exp()[..., None] + before * (beyond - both).exp()[..., None]
                total = both
            out[:, :, here], sums[:, :, here] = mixed, total
        ctx.save_for_backward(q, k, v, out, sums)
        ctx.along = along
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, sums = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for chain in ctx.along:
            here = slice(chain.first, chain.last)
            queries, mixed, total, slope = (x[:, :, here] for x in (q, out, sums, slopes[0]))
            near = _spread(k[:, :, here], q), _spread(v[:, :, here], q)
            own, keys, values = _attend_back(slope, queries, *near, mixed, total, causal=True)
            dk[:, :, here] += _gathered(keys, k)
            dv[:, :, here] += _gathered(values, v)
            if chain.ancestors is not None:
                far = _folded(slope, k), _folded(queries, k), k[:, :, chain.ancestors], v[:, :, chain.ancestors]
                ends = _folded(mixed, k), _folded(total[..., None], k)[..., 0]
                more, keys, values = _attend_back(*far, *ends, causal=False)
                own = own + more.reshape(own.shape)
                if isinstance(chain.ancestors, slice):
                    dk[:, :, chain.ancestors] += keys
                    dv[:, :, chain.ancestors] += values
                else:
                    dk.index_add_(2, chain.ancestors, keys)
                    dv.index_add_(2, chain.ancestors, values)
            dq[:, :, here] = own
        return dq, dk, dv, None


def _spread(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values [1, KV, n, hd], one for each query head."""
    group = q.shape[1] // x.shape[1]
    return x if group == 1 else x.repeat_interleave(group, dim=1)


def _gathered(x: Tensor, k: Tensor) -> Tensor:
    """The inverse of `_spread` for slopes."""
    return x.reshape(1, k.shape[1], -1, *x.shape[2:]).sum(2)


def _folded(x: Tensor, k: Tensor) -> Tensor:
    """Queries [1, H, n, *] of the heads that share keys, one behind the other: [1, KV, group x n, *]."""
    return x.reshape(1, k.shape[1], -1, x.shape[-1])


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm of its sums [1, heads, n]."""
    mixed, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    return mixed, total


def _attend_back(
    slope: Tensor, q: Tensor, k: Tensor, v: Tensor, mixed: Tensor, total: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of q, k and v, where `mixed` and `total` may have come about with more than these keys."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        slope.contiguous(), q, k, v, mixed.contiguous(), total.contiguous(), 0.0, causal
    )
    return found


# -- on an accelerator ---------------------------------------------------------------------------------------------


class ByBlock:
    """FlexAttention over a forest whose row is padded to whole blocks; see `row`. Compiled, but for a CPU.

    Source: arXiv 2412.05496.
    """

    def __init__(self, forest: Forest, device: torch.device) -> None:
        ends = last_seen(forest, padded(len(forest.tokens)))
        self.mask = self._mask(ends, device)

    @staticmethod
    def _mask(ends: Ints, device: torch.device) -> Any:
        """FlexAttention's `BlockMask`, out of the segments: it need not look at every pair of tokens."""
        from torch.nn.attention.flex_attention import BlockMask

        until = torch.from_numpy(ends).to(device)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < until[key])

        some, whole = blocks(ends)
        arrays = [torch.from_numpy(array).to(device)[None, None] for array in (*listed(some), *listed(whole))]
        return BlockMask.from_kv_blocks(arrays[0], arrays[1], arrays[2], arrays[3], BLOCK_SIZE=BLOCK, mask_mod=sees)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [1, H, T, hd], k and v [1, KV, T, hd] -> [1, H, T, hd]."""
        grouped = q.shape[1] != k.shape[1]
        mixed: Tensor = _flex(q.device.type)(q, k, v, block_mask=self.mask, enable_gqa=grouped)
        return mixed


@functools.cache
def _flex(device: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)  # type: ignore[return-value]


def padded(count: int) -> int:
    """Up to whole blocks."""
    return -(-count // BLOCK) * BLOCK


def last_seen(forest: Forest, length: int) -> Ints:
    """Up to which place a token [length] is seen: where its segment's descendants end. Padding sees itself."""
    alone = np.arange(len(forest.tokens), length, dtype=np.int32) + 1
    return np.concatenate([np.repeat(forest.ends, forest.lengths), alone])


def blocks(ends: Ints) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks of keys a block of queries sees something of but not all, and which it sees whole: [blocks, blocks].

    A key before a block of queries is seen by all of it, or by those up to its end.
    """
    of_block = ends.reshape(-1, BLOCK)
    here = np.arange(len(of_block))
    earlier = here[None] < here[:, None]
    some = earlier & (of_block.max(1)[None] > here[:, None] * BLOCK)
    whole = earlier & (of_block.min(1)[None] >= (here[:, None] + 1) * BLOCK)
    return (some & ~whole) | np.eye(len(here), dtype=bool), whole


def listed(seen: np.ndarray) -> tuple[Ints, Ints]:
    """Of each row how many are set [rows], and which, those first [rows, columns]."""
    order = np.argsort(~seen, axis=1, kind="stable")
    return seen.sum(1).astype(np.int32), order.astype(np.int32)


# -- a forest as a row ---------------------------------------------------------------------------------------------


def row(forest: Forest, device: torch.device) -> tuple[Tensor, Tensor]:
    """tokens and positions [1, count] int64; on an accelerator padded to whole blocks."""
    count = len(forest.tokens)
    room = 0 if device.type == "cpu" else padded(count) - count
    tokens, positions = (np.pad(x, (0, room)).astype(np.int64) for x in (forest.tokens, forest.positions))
    return torch.from_numpy(tokens)[None].to(device), torch.from_numpy(positions)[None].to(device)
