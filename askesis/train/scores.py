"""From a part of a minibatch to the log-probabilities of its tokens, in torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from askesis.models import CausalLM
from askesis.train import trees
from askesis.train.batches import Padded, Part, Planted
from askesis.types import AskesisError

_KEPT = 2**28  # numbers of logits that are kept from forward to backward; of more, each piece is computed again
_AT_ONCE = 2**26  # of a piece


def token_logprobs(model: CausalLM, part: Part) -> Tensor:
    """Log-probabilities [n] float32 of the part's targets, at the temperature they were sampled at.

    A `Planted` part needs a model that takes an attention from outside.
    """
    return _picked(model, hidden_states(model, part), part)


def hidden_states(model: CausalLM, part: Part) -> Tensor:
    """[n, D]: from which each target is predicted; normed."""
    if isinstance(part, Padded):
        hidden: Tensor = model(part.tokens).flatten(0, 1)[part.index]
        return hidden
    if not isinstance(part, Planted):
        raise AskesisError(f"trainer: a part is a {type(part).__name__}, expected Padded or Planted")
    device = part.targets.device
    tokens, positions = trees.row(part.forest, device)
    states = model(tokens, positions=positions, attention=trees.attention(part.forest, device))[0]
    picked: Tensor = states[torch.from_numpy(part.index).to(device)]
    return picked


def _picked(model: CausalLM, hidden: Tensor, part: Part) -> Tensor:
    """A vocabulary of 150,000 would take more memory than all layers: where logits are many, they come in pieces."""
    scale = part.temperature.clamp(min=1e-6)
    scaled = bool((scale != 1.0).any())

    def look(hidden: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        scores = model.logits(hidden).float()
        if scaled:
            scores = scores / scale[:, None]
        return -F.cross_entropy(scores, targets, reduction="none")

    vocabulary = model.vocabulary()
    if len(hidden) * vocabulary <= _AT_ONCE or (len(hidden) * vocabulary <= _KEPT and torch.is_grad_enabled()):
        return look(hidden, part.targets, scale)
    pieces = [torch.split(x, max(1, _AT_ONCE // vocabulary)) for x in (hidden, part.targets, scale)]
    if not torch.is_grad_enabled():
        return torch.cat([look(*piece) for piece in zip(*pieces, strict=True)])
    again = [checkpoint(look, *piece, use_reentrant=False) for piece in zip(*pieces, strict=True)]
    return torch.cat(again)
