"""Training: advantages and losses as pure functions, optimisers, and one trainer that consumes samples."""

from askesis.train.advantages import ADVANTAGES, Advantages
from askesis.train.batches import Minibatch, Padded, Part, Planted, deal, grove, minibatch
from askesis.train.losses import POLICY_LOSSES, Loss, LossInputs, LossOutput, k3, supervised
from askesis.train.optimisers import Muon, Optimisers, orthogonalise, rate_factor
from askesis.train.scores import token_logprobs
from askesis.train.trainer import Trainer

__all__ = [
    "ADVANTAGES",
    "POLICY_LOSSES",
    "Advantages",
    "Loss",
    "LossInputs",
    "LossOutput",
    "Minibatch",
    "Muon",
    "Optimisers",
    "Padded",
    "Part",
    "Planted",
    "Trainer",
    "deal",
    "grove",
    "k3",
    "minibatch",
    "orthogonalise",
    "rate_factor",
    "supervised",
    "token_logprobs",
]
