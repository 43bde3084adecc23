"""Low-rank adaptation: of a frozen weight W only a product of two thin matrices is learned.

Source: LoRA, arXiv 2106.09685: weight = W + alpha / rank x B A, with A random and B zero at first.

The model holds the sum, the weight itself, in place and under its own name: whoever samples from the model, saves it or
computes its gradients in C++ needs to know nothing of adapters, and what is sampled is what is trained. After each
update the sum is made anew from W, which is kept. In torch no gradient of the whole weight is computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from askesis.models import CausalLM
from askesis.types import AskesisError, nearest

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of Qwen3's layers, by the last part of their names."""


class _Pair:
    """One weight's matrices. base: W. a [rank, in], b [out, rank] float32. Outside of the model's parameters."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        out, into = weight.shape
        self.base = weight.detach().clone()
        bound = math.sqrt(3.0 / into)  # deviation 1 / sqrt(in), as of a fresh layer
        a = torch.empty(rank, into).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(weight.device))
        self.b = nn.Parameter(torch.zeros(out, rank, device=weight.device))


class _Gradients(torch.autograd.Function):
    """The layer's output as it is; on the way back, the gradients of a and b."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.scale = scale
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        (slope,) = grads
        x, a, b = ctx.saved_tensors
        flat, into = slope.flatten(0, -2), x.flatten(0, -2).to(slope.dtype)
        narrow = flat @ b.to(slope.dtype)
        of_a = (narrow.mT @ into).to(a.dtype) * ctx.scale
        of_b = (flat.mT @ (into @ a.to(slope.dtype).mT)).to(b.dtype) * ctx.scale
        return slope, None, of_a, of_b, None


class _Adapted(nn.Linear):
    """A linear layer whose weight is the sum. A layer becomes one in place: its class changes, its names do not."""

    pair: _Pair
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        y = F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return y
        found: Tensor = _Gradients.apply(y, x, self.pair.a, self.pair.b, self.scale)  # type: ignore[no-untyped-call]
        return found


class Lora:
    """Adapters of `model`, whose own parameters are frozen from now on.

    targets: the last parts of the names of the linear layers that get one. rank: width of the product; alpha: its
    weight, divided by `rank`. seed: of the random matrices. Raises `AskesisError` where a target is not there, or
    adapters are.
    """

    def __init__(
        self, model: CausalLM, *, rank: int = 16, alpha: float = 32.0, targets: Sequence[str] = ALL, seed: int = 0
    ) -> None:
        if any(isinstance(part, _Adapted) for part in model.modules()):
            raise AskesisError(
                "lora: the model has adapters already. What they have learned is in its weights: save it with "
                "`save_checkpoint`, load that, and adapt it anew"
            )
        layers = {
            name: part
            for name, part in model.named_modules()
            if type(part) is nn.Linear and name.rpartition(".")[2] != "lm_head"  # its weight may be the embedding's
        }
        known = sorted({name.rpartition(".")[2] for name in layers})
        for target in targets:
            if target not in known:
                raise AskesisError(
                    f"lora: no layer {target!r} in a {type(model).__name__}{nearest(target, known)}: expected some of "
                    f"{', '.join(known) or 'none, for it has no plain linear layers'}"
                )
        if rank < 1:
            raise AskesisError(f"lora: rank={rank}, expected at least 1")
        self.rank, self.alpha, self.targets = rank, alpha, tuple(targets)
        self._scale = alpha / rank
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self._layers: dict[str, _Adapted] = {}
        for name, layer in layers.items():
            if name.rpartition(".")[2] in targets:
                pair = _Pair(layer.weight, rank, generator)
                layer.__class__ = _Adapted
                adapted = cast(_Adapted, layer)
                adapted.pair, adapted.scale = pair, self._scale
                self._layers[name] = adapted

    @property
    def weights(self) -> list[Tensor]:
        """The weights that have an adapter, in order."""
        return [layer.weight for layer in self._layers.values()]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is learned, by the names that PEFT has for it: `model.layers.0.mlp.up_proj.lora_A.weight`."""
        for name, layer in self._layers.items():
            yield f"{name}.lora_A.weight", layer.pair.a
            yield f"{name}.lora_B.weight", layer.pair.b

    def parameters(self) -> list[nn.Parameter]:
        """What is learned: A and B of each weight."""
        return [parameter for _, parameter in self.named_parameters()]

    def project(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """From gradients of `weights` to those of `parameters`."""
        found = []
        for layer, gradient in zip(self._layers.values(), gradients, strict=True):
            whole = gradient.float() * self._scale
            found += [layer.pair.b.detach().mT @ whole, whole @ layer.pair.a.detach().mT]
        return found

    @torch.no_grad()
    def merge(self) -> None:
        """Make the weights anew from what was learned."""
        for layer in self._layers.values():
            pair = layer.pair
            layer.weight.copy_(pair.base.float().addmm(pair.b, pair.a, alpha=self._scale))

    def state_dict(self) -> dict[str, Tensor]:
        """All that a run that goes on needs: also W, which the sum does not give back to the last bit."""
        state: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return state | {f"{name}.base": layer.pair.base for name, layer in self._layers.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse. Raises `ValueError` for the state of other adapters."""
        mine = self.state_dict()
        if {name: value.shape for name, value in mine.items()} != {name: value.shape for name, value in state.items()}:
            raise ValueError(f"adapters of rank {self.rank} on {', '.join(self.targets)} do not fit what was saved")
        for name, value in state.items():
            mine[name].copy_(value)
        self.merge()

    def save(self, folder: Path, *, base: str = "") -> None:
        """Write the adapter alone, as PEFT and vLLM open it. base: name or path of the model it belongs to."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"base_model.model.{_plain(name)}": one.detach().cpu() for name, one in self.named_parameters()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted(self.targets),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _plain(name: str) -> str:
    """A name as transformers has it."""
    return name.removeprefix("inner.")
