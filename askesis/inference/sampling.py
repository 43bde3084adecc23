"""Drawing tokens: noise that depends on a request alone, and the distributions it is applied to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from askesis.types import EngineError, Sampling

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def uniform(seed: npt.NDArray[np.uint64], index: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """One number in (0, 1) for each (seed, index of the token in its completion): SplitMix64 used as a hash.

    A counter instead of a generator's state: what shares the batch cannot matter, and a batch is one vectorised call.
    48 bits, so that noise x total stays below the total in float64. Source: Steele, Lea and Flood, OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        x = _mix(_mix(seed + _GOLDEN) + (index + np.uint64(1)) * _GOLDEN)
    return ((x >> np.uint64(16)).astype(np.float64) + 0.5) * 2.0**-48


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def draw(
    logits: Tensor,
    noise: Tensor,
    temperature: Tensor,
    truncation: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw from logits [m, V] by inverting the distribution's cumulative sum: (tokens [m], log-probabilities [m]).

    noise [m] float64, temperature [m] (0 is greedy, its log-probabilities are those of temperature 1), truncation:
    (top_k, top_p, min_p), each [m]. Log-probabilities are of the scaled, untruncated distribution.
    """
    greedy = temperature == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperature)[:, None]
    logprobs = scaled.log_softmax(dim=-1)
    weights = logprobs.exp()
    if truncation is not None:
        weights = truncate(weights, *truncation)
    heights = weights.double().cumsum(dim=-1)
    drawn = torch.searchsorted(heights, (noise * heights[:, -1])[:, None], right=True)[:, 0]
    tokens = torch.where(greedy, logits.argmax(dim=-1), drawn.clamp(max=logits.shape[-1] - 1))
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def truncate(weights: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Zero what top-k, then top-p (arXiv 1904.09751, over what top-k left), then min-p (2407.01082) exclude.

    weights [m, V], probabilities; the others [m], where 0, 1 and 0 mean off. The likeliest token always stays.
    """
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(weights.shape[-1], device=weights.device)
    kept = (top_k[:, None] <= 0) | (rank < top_k[:, None])
    ordered = ordered * kept
    before = ordered.double().cumsum(dim=-1) - ordered
    kept &= (before < top_p[:, None] * ordered.double().sum(dim=-1, keepdim=True)) | (top_p[:, None] >= 1)
    kept &= ordered >= min_p[:, None] * ordered[:, :1]
    kept[:, 0] = True
    return torch.zeros_like(weights).scatter_(1, order, ordered * kept)


def check(sampling: Sampling, vocab_size: int) -> None:
    """Raise `EngineError` for parameters that make no sense."""
    wrong = []
    if not 0 <= sampling.temperature < float("inf"):
        wrong.append(f"temperature={sampling.temperature}, expected 0 (greedy) or more")
    if sampling.top_k < 0:
        wrong.append(f"top_k={sampling.top_k}, expected 0 (off) or more")
    if not 0 < sampling.top_p <= 1:
        wrong.append(f"top_p={sampling.top_p}, expected above 0 and at most 1 (off)")
    if not 0 <= sampling.min_p <= 1:
        wrong.append(f"min_p={sampling.min_p}, expected 0 (off) to 1")
    if sampling.max_tokens < 1:
        wrong.append(f"max_tokens={sampling.max_tokens}, expected at least 1")
    named = {"stop": sampling.stop}
    if (limit := sampling.thinking) is not None:
        if limit.budget < 0:
            wrong.append(f"thinking.budget={limit.budget}, expected 0 or more (no budget: thinking=None)")
        if limit.close_id not in limit.closing:
            wrong.append(f"thinking.closing={limit.closing} lacks close_id={limit.close_id}: it would not end thinking")
        if limit.open_id == limit.close_id:
            wrong.append(f"thinking.open_id and close_id are both {limit.open_id}")
        calls = [tag for tag in (limit.call_open_id, limit.call_close_id) if tag != -1]
        named |= {"thinking": (limit.open_id, limit.close_id, *calls, *limit.closing)}
    for name, tokens in named.items():
        if outside := [token for token in tokens if not 0 <= token < vocab_size]:
            wrong.append(f"{name} has ids outside the vocabulary of {vocab_size}: {outside[:5]}")
    if wrong:
        raise EngineError("sampling parameters: " + "; ".join(wrong))
