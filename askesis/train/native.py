"""Gradients of a dense Qwen3 on a CPU in C++ (`native.cpp`), compiled once on the machine it runs on.

Two calls a part: tokens to log-probabilities; the loss's slopes along these to the gradient of every parameter. What
the loss is, stays with `train.losses`. What sequences of a part begin with in common is computed once.
"""

from __future__ import annotations

import ctypes
import math
import queue
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from askesis.models import CausalLM, Qwen3
from askesis.models.native_code import library, no_compiler
from askesis.models.qwen3 import Rotary
from askesis.train.batches import Planted
from askesis.types import AskesisError

_SOURCE = Path(__file__).with_name("native.cpp")
_LANES = 16
_POINTER = ctypes.c_void_p
_SIZES = ("hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "tied", "half")
_NORMED = ("q_norm", "k_norm")
_OF_A_LAYER = (
    "input_layernorm",
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", *_NORMED, "o_proj")),
    "post_attention_layernorm",
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


class _Shape(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in _SIZES), ("eps", ctypes.c_float)]


class _Forest(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("tokens", "positions", "starts", "lengths", "parents")),
        *((name, _POINTER) for name in ("places", "scales", "firsts", "entries", "targets")),
        *((name, ctypes.c_int32) for name in ("count", "segments", "rows")),
    ]


def why_not(model: CausalLM) -> str | None:
    """Why gradients of `model` cannot be computed here; None if they can."""
    if type(model) is not Qwen3:
        return f"the model is a {type(model).__name__}, not a dense Qwen3"
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}, not on a CPU"
        if parameter.dtype != torch.float32:
            return f"{name} is {parameter.dtype}, not float32"
        if not parameter.is_contiguous():
            return f"{name} is not contiguous"
    return no_compiler()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Given:
    """A part as C++ reads it. arrays: what the pointers point to."""

    struct: _Forest
    arrays: tuple[np.ndarray, ...]
    count: int


class NativeModel:
    """The parameters of `model`, as they were at the last `refresh`, which comes first.

    All else may be called by several threads at a time. dtype: what the factors of products are rounded to. Raises
    `AskesisError` where it cannot be compiled, or the processor does not multiply bfloat16.
    """

    def __init__(self, model: Qwen3, dtype: torch.dtype = torch.float32) -> None:
        self._weights: int | None = None
        self._tapes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._library = _library()
        if dtype == torch.bfloat16 and not self._library.trainer_knows_half():
            raise AskesisError("trainer: the processor does not multiply bfloat16 (AVX512-BF16), or its compiler not")
        self._model, self._rotary = model, Rotary(model.config)
        config = model.config
        shape = _Shape(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            tied=config.tie_word_embeddings,
            half=dtype == torch.bfloat16,
            eps=config.rms_norm_eps,
        )
        self._weights = self._library.trainer_weights(ctypes.byref(shape))
        self._size = self._library.trainer_gradient_size(self._weights)

    def __del__(self) -> None:
        if self._weights is None:
            return
        while not self._tapes.empty():
            self._library.trainer_free_tape(self._tapes.get())
        self._library.trainer_free_weights(self._weights)

    def _names(self) -> list[str]:
        layers = range(self._model.config.num_hidden_layers)
        inner = [f"model.layers.{layer}.{name}.weight" for layer in layers for name in _OF_A_LAYER]
        return ["model.embed_tokens.weight", *inner, "model.norm.weight", "lm_head.weight"]

    def _parameters(self) -> dict[str, Tensor]:
        return {"lm_head.weight": self._model.lm_head.weight, **dict(self._model.named_parameters())}

    def refresh(self, length: int) -> None:
        """Read the parameters: now, whether or not they have changed, for not every optimiser leaves a sign of it.

        length: of the longest sequence to come.
        """
        self._rotary.reserve(length, torch.empty(0))
        found = self._parameters()
        ordered = [found[name] for name in self._names()]
        addresses = (_POINTER * len(ordered))(*(tensor.data_ptr() for tensor in ordered))
        self._library.trainer_take(self._weights, addresses, self._rotary.cos.data_ptr(), self._rotary.sin.data_ptr())

    @contextmanager
    def _tape(self) -> Iterator[int]:
        try:
            tape = self._tapes.get_nowait()
        except queue.Empty:
            tape = self._library.trainer_tape(self._weights)
        try:
            yield tape
        finally:
            self._tapes.put(tape)

    def logprobs(self, part: Planted) -> Tensor:
        """Log-probabilities [n] of the part's targets, at the temperature they were sampled at."""
        given = self._given(part)
        with self._tape() as tape:
            return self._forward(tape, given)

    @contextmanager
    def taped(self, part: Planted) -> Iterator[Taped]:
        """The part's log-probabilities, from which a gradient can be had."""
        given = self._given(part)
        with self._tape() as tape:
            yield Taped(self, tape, given)

    def _given(self, part: Planted) -> _Given:
        """Each place goes through the unembedding once a temperature, however many log-probabilities it gives."""
        forest, vocab = part.forest, self._model.config.vocab_size
        for tokens in (forest.tokens, part.targets.numpy()):
            if tokens.min() < 0 or tokens.max() >= vocab:
                got = f"{tokens.min()} to {tokens.max()}"
                raise AskesisError(f"trainer: samples have tokens {got}, but the model knows 0 to {vocab - 1}")
        temperatures, kinds = np.unique(part.temperature.numpy(), return_inverse=True)
        keys, rows = np.unique(part.index.astype(np.int64) * len(temperatures) + kinds, return_inverse=True)
        entries = np.argsort(rows, kind="stable").astype(np.int32)
        firsts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(keys)))]).astype(np.int32)
        places, kinds = np.divmod(keys, len(temperatures))
        scales = (1.0 / np.maximum(temperatures[kinds], 1e-6)).astype(np.float32)
        arrays = (
            *(forest.tokens, forest.positions, forest.starts, forest.lengths, forest.parents),
            *(places.astype(np.int32), scales, firsts, entries, part.targets.numpy().astype(np.int32)),
        )
        pointers = (array.ctypes.data for array in arrays)
        struct = _Forest(*pointers, len(forest.tokens), len(forest.starts), len(places))
        return _Given(struct=struct, arrays=arrays, count=len(part.index))

    def _forward(self, tape: int, given: _Given) -> Tensor:
        values = torch.empty(given.count, dtype=torch.float32)
        self._library.trainer_forward(tape, ctypes.byref(given.struct), values.data_ptr())
        return values

    def unpack(self, gradient: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
        """A gradient as `Taped.gradient` gave it, of each of `parameters`; views where nothing is padded."""
        config = self._model.config
        hidden, head, inner = (_whole(n) for n in (config.hidden_size, config.head_dim, config.intermediate_size))
        found = self._parameters()
        unpacked: dict[int, Tensor] = {}
        at = 0
        for name in self._names():
            shape = found[name].shape
            kind = name.split(".")[-2]
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if kind in ("q_proj", "k_proj", "v_proj"):
                heads = shape[0] // config.head_dim
                room, inside = (heads, head, hidden), (heads, config.head_dim, config.hidden_size)
            elif kind == "o_proj":
                heads = shape[1] // config.head_dim
                room, inside = (config.hidden_size, heads, head), (config.hidden_size, heads, config.head_dim)
            elif kind in ("gate_proj", "up_proj"):
                room, inside = (1, inner, hidden), (1, *shape)
            elif len(shape) == 1:
                room, inside = (1, 1, _whole(shape[0])), (1, 1, shape[0])
            else:
                room, inside = (1, shape[0], _whole(shape[1])), (1, *shape)
            size = math.prod(room)
            whole = gradient[at : at + size].view(room)
            unpacked[id(found[name])] = whole[: inside[0], : inside[1], : inside[2]].reshape(shape)
            at += size
        return [unpacked[id(parameter)] for parameter in parameters]


class Taped:
    """logprobs [n] of a part's targets."""

    def __init__(self, owner: NativeModel, tape: int, given: _Given) -> None:
        self._owner, self._tape, self._given = owner, tape, given
        self.logprobs = owner._forward(tape, given)

    def gradient(self, slopes: Tensor) -> Tensor:
        """From a loss's slopes [n] along the log-probabilities to its gradient, padded and flat; see `unpack`."""
        owner, slopes = self._owner, slopes.contiguous()
        gradient = torch.zeros(owner._size)
        owner._library.trainer_backward(
            self._tape, ctypes.byref(self._given.struct), slopes.data_ptr(), gradient.data_ptr()
        )
        return gradient


def _whole(size: int) -> int:
    return -(-size // _LANES) * _LANES


def _library() -> ctypes.CDLL:
    found = library(_SOURCE, "trainer")
    found.trainer_weights.restype = found.trainer_tape.restype = _POINTER
    found.trainer_knows_half.restype = ctypes.c_int32
    found.trainer_gradient_size.restype = ctypes.c_int64
    found.trainer_gradient_size.argtypes = found.trainer_free_weights.argtypes = [_POINTER]
    found.trainer_weights.argtypes = found.trainer_tape.argtypes = found.trainer_free_tape.argtypes = [_POINTER]
    found.trainer_take.argtypes = [_POINTER] * 4
    found.trainer_forward.argtypes = [_POINTER] * 3
    found.trainer_backward.argtypes = [_POINTER] * 4
    return found
