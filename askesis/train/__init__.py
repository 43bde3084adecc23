"""Training: advantages and losses as pure functions, optimisers, and one trainer that consumes samples."""

from askesis.train.advantages import ADVANTAGES, Advantages
from askesis.train.batches import Minibatch, Padded, Part, Planted, deal, grove, minibatch
from askesis.train.corrections import CORRECTIONS, Correction, Lag, Weighed, correction, weigh
from askesis.train.lora import Lora
from askesis.train.losses import CLIPS, POLICY_LOSSES, Loss, LossInputs, LossOutput, k3, policy_loss, supervised
from askesis.train.optimisers import Muon, Optimisers, orthogonalise, rate_factor
from askesis.train.scores import token_logprobs
from askesis.train.tallies import DISTANCES, OF_SAMPLER
from askesis.train.trainer import Trainer

__all__ = [
    "ADVANTAGES",
    "CLIPS",
    "CORRECTIONS",
    "DISTANCES",
    "OF_SAMPLER",
    "POLICY_LOSSES",
    "Advantages",
    "Correction",
    "Lag",
    "Lora",
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
    "Weighed",
    "correction",
    "deal",
    "grove",
    "k3",
    "minibatch",
    "orthogonalise",
    "policy_loss",
    "rate_factor",
    "supervised",
    "token_logprobs",
    "weigh",
]
