"""The backend in plain torch: any model, device and type; optionally with its decode step compiled by torch.

The cache is one tensor a layer, [rows, KV, length + 1, hd]; the last position takes writes that nobody reads, so that
padded batches need no branches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from askesis.inference.batch import Array, Batch, Draw
from askesis.inference.memory import lazy_zeros
from askesis.inference.sampling import draw
from askesis.models import Qwen3

_WIDTHS, _LENGTHS = 16, 128  # shapes are rounded up to these, so that few of them are ever compiled


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


class _Decode:
    """Attention of one new token a row, over the first `length` positions of the first rows of the cache."""

    def __init__(
        self, keys: list[Tensor], values: list[Tensor], rows: Tensor, places: Tensor, seen: Tensor, view: bool
    ) -> None:
        self.keys, self.values, self.rows, self.places, self.seen, self.view = keys, values, rows, places, seen, view

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, 1, hd], k and v [B, KV, 1, hd] -> [B, H, 1, hd]."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows, :, self.places] = k[:, :, 0]
        values[self.rows, :, self.places] = v[:, :, 0]
        width, length = self.seen.shape
        pick: Any = slice(width) if self.view else self.rows
        keys, values = keys[pick, :, :length], values[pick, :, :length]
        grouped = q.reshape(width, keys.shape[1], -1, q.shape[-1]) * q.shape[-1] ** -0.5
        scores = (grouped @ keys.transpose(2, 3)).float()
        scores = scores.masked_fill(~self.seen[:, None, None], float("-inf"))
        mixed: Tensor = (scores.softmax(dim=-1).to(values.dtype) @ values).reshape(q.shape)
        return mixed


class _Prefill:
    """Attention of padded spans: writes [B, T] new positions of `rows`, then attends to all of those rows' past."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], rows: Tensor, places: Tensor, seen: Tensor) -> None:
        self.keys, self.values, self.rows, self.places, self.seen = keys, values, rows, places, seen

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, T, hd], k and v [B, KV, T, hd] -> [B, H, T, hd]."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows[:, None], :, self.places] = k.transpose(1, 2)
        values[self.rows[:, None], :, self.places] = v.transpose(1, 2)
        length = self.seen.shape[-1]
        return F.scaled_dot_product_attention(
            q,
            keys[self.rows, :, :length],
            values[self.rows, :, :length],
            attn_mask=self.seen[:, None],
            enable_gqa=q.shape[1] != k.shape[1],
        )


class EagerBackend:
    """`Backend` over torch operations. compile: let torch.compile fuse the decode step (slow start, faster steps)."""

    def __init__(
        self, model: Qwen3, *, rows: int, length: int, compile: bool = False, threads: int | None = None
    ) -> None:
        self.name = "torch-compiled" if compile else "torch"
        self.model, self.rows, self.length, self.threads = model, rows, length, threads
        weight = model.model.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        config = model.config
        shape = (rows, config.num_key_value_heads, length + 1, config.head_dim)
        self.keys = [self._zeros(shape) for _ in range(config.num_hidden_layers)]
        self.values = [self._zeros(shape) for _ in range(config.num_hidden_layers)]
        self._decode: Callable[..., Tensor] = torch.compile(self._forward, dynamic=False) if compile else self._forward
        self._draw = torch.compile(draw, dynamic=False) if compile else draw
        self._pads = compile

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        if self.device.type == "cpu" and self.dtype == torch.float32:
            return torch.from_numpy(lazy_zeros(shape, np.dtype(np.float32)))
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def refresh(self, *, changed: bool) -> None:
        """Parameters are read live; only the table of angles must be long enough."""
        self.model.rotary.reserve(self.length + 1, self.model.model.embed_tokens.weight)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` positions of row `source` to row `target`."""
        for cache in (*self.keys, *self.values):
            cache[target, :, :count] = cache[source, :, :count]

    def clear(self) -> None:
        """Zero everything."""
        for cache in (*self.keys, *self.values):
            cache.zero_()

    def step(self, batch: Batch) -> tuple[Array, Array]:
        """One step, whatever `batch.most` allows. Single tokens go through the decode path, longer spans are padded."""
        before = torch.get_num_threads()
        if self.threads is not None and self.threads != before:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                tokens, logprobs = self._step(batch)
                return tokens[None], logprobs[None]
        finally:
            if self.threads is not None and self.threads != before:
                torch.set_num_threads(before)

    def _step(self, batch: Batch) -> tuple[Array, Array]:
        offsets = np.concatenate(([0], np.cumsum(batch.counts)))
        hidden: dict[int, Tensor] = {}
        single = np.flatnonzero(batch.counts == 1)
        if len(single):
            out = self._singles(batch.tokens[offsets[single]], batch.rows[single], batch.starts[single])
            if len(single) == len(batch.counts) == len(batch.drawing):
                return self._sample(out, batch.draw)
            hidden.update(zip(single.tolist(), out, strict=True))
        longer = np.flatnonzero(batch.counts > 1)
        longer = longer[np.argsort(batch.counts[longer], kind="stable")]
        for part in _alike(longer, batch.counts):
            hidden.update(zip(part.tolist(), self._spans(batch, offsets, part), strict=True))
        if not len(batch.drawing):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return self._sample(torch.stack([hidden[i] for i in batch.drawing.tolist()]), batch.draw)

    def _singles(self, tokens: Array, rows: Array, positions: Array) -> Tensor:
        """One token a row -> hidden [n, D]. Dense rows use a view of the cache, scattered ones gather theirs."""
        count, top = len(rows), int(rows.max()) + 1
        length = min(_round_up(int(positions.max()) + 1, _LENGTHS), self.length)
        view = top <= 2 * _round_up(count, _WIDTHS) or count * 2 > self.rows
        width = min(_round_up(top if view else count, _WIDTHS), self.rows)
        at = rows if view else np.arange(count)
        fed = np.zeros((3, width), dtype=np.int64)  # tokens, positions, rows
        places = np.full(width, self.length, dtype=np.int64)
        fed[0, at], fed[1, at], places[at] = tokens, positions, positions
        fed[2] = np.arange(width)
        if not view:
            fed[2] = rows[0]  # the padding writes where nobody reads, and reads what is there
            fed[2, :count] = rows
        given = torch.from_numpy(fed).to(self.device)
        hidden = self._decode(given[0], given[1], given[2], torch.from_numpy(places).to(self.device), length, view)
        return hidden[torch.from_numpy(at).to(self.device)] if len(at) != width else hidden

    def _forward(
        self, tokens: Tensor, positions: Tensor, rows: Tensor, places: Tensor, length: int, view: bool
    ) -> Tensor:
        seen = torch.arange(length, device=tokens.device) <= positions[:, None]
        attention = _Decode(self.keys, self.values, rows, places, seen, view)
        hidden: Tensor = self.model(tokens[:, None], positions=positions[:, None], attention=attention)
        return hidden[:, 0]

    def _spans(self, batch: Batch, offsets: Array, part: Array) -> Tensor:
        """Spans of several tokens, padded to the longest -> hidden of each span's last token [n, D]."""
        counts, starts = batch.counts[part], batch.starts[part]
        longest, length = int(counts.max()), int((counts + starts).max())
        steps = np.arange(longest)
        real = steps < counts[:, None]
        tokens = np.zeros(real.shape, dtype=np.int64)
        tokens[real] = np.concatenate([batch.tokens[offsets[i] : offsets[i] + batch.counts[i]] for i in part])
        positions = np.where(real, starts[:, None] + steps, 0).astype(np.int64)
        places = np.where(real, positions, self.length)
        seen = torch.from_numpy(np.arange(length) <= positions[:, :, None]).to(self.device)
        rows = torch.from_numpy(batch.rows[part].astype(np.int64)).to(self.device)
        attention = _Prefill(self.keys, self.values, rows, torch.from_numpy(places).to(self.device), seen)
        given = torch.from_numpy(np.stack((tokens, positions))).to(self.device)
        hidden: Tensor = self.model(given[0], positions=given[1], attention=attention)
        last = torch.from_numpy(counts.astype(np.int64) - 1).to(self.device)
        return hidden[torch.arange(len(part), device=self.device), last]

    def _sample(self, hidden: Tensor, how: Draw) -> tuple[Array, Array]:
        count = len(hidden)
        width = _round_up(count, _WIDTHS) if self._pads else count

        def padded(values: Array) -> Tensor:
            return torch.from_numpy(np.pad(values, (0, width - count), mode="edge")).to(self.device)

        hidden = F.pad(hidden, (0, 0, 0, width - count))
        truncation = (padded(how.top_k), padded(how.top_p), padded(how.min_p)) if how.truncated else None
        tokens, logprobs = self._draw(
            self.model.logits(hidden), padded(how.noise[0]), padded(how.temperature), truncation
        )
        return tokens[:count].cpu().numpy(), logprobs[:count].cpu().numpy()


def _alike(spans: Array, counts: Array) -> list[Array]:
    """Spans, sorted by length, in runs of which none is padded to more than twice its length."""
    parts, start = [], 0
    for index in range(1, len(spans) + 1):
        if index == len(spans) or counts[spans[index]] > 2 * counts[spans[start]]:
            parts.append(spans[start:index])
            start = index
    return parts
