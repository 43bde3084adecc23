"""The backend in C++: dense Qwen3 on a CPU, compiled once on the machine it runs on (`native.cpp`).

In float32 it reads the model's parameters where they are. In bfloat16, for processors that multiply it, it keeps a
packed copy of the matrices, taken anew whenever the parameters have changed. It pads nothing, and gives a request the
same bits in any batch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from askesis.inference.batch import Array, Batch
from askesis.inference.memory import lazy_zeros
from askesis.inference.sampling import draw
from askesis.models import Qwen3
from askesis.models.native_code import compiler, no_compiler
from askesis.models.native_code import library as compiled
from askesis.models.qwen3 import Rotary
from askesis.types import AskesisError, EngineError

_SOURCE = Path(__file__).with_name("native.cpp")
_LANES = 16
_PANEL = 8  # rows of a packed matrix that lie together
_POINTER = ctypes.c_void_p


_LAYER = {  # the struct's fields, and the parameters that they point to
    "input_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "o": "self_attn.o_proj",
    "post_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


class _Layer(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in _LAYER]


class _Model(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                *("hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "length"),
                *("half", "half_embed"),
            )
        ),
        ("eps", ctypes.c_float),
        *((name, _POINTER) for name in ("embed", "norm", "head", "cos", "sin", "layer", "cache")),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in ("tokens", "starts", "rows", "counts", "drawing")),
        ("spans", ctypes.c_int32),
        *((name, _POINTER) for name in ("noise", "temperature", "drawn", "logprobs", "logits")),
    ]


def why_not(model: Qwen3, dtype: torch.dtype | None = None) -> str | None:
    """Why this backend cannot run `model` in `dtype` (None: the model's own); None if it can."""
    weight = model.model.embed_tokens.weight
    dtype = dtype or weight.dtype
    if model.config.is_moe:
        return "the model is a mixture of experts"
    if type(model) is not Qwen3:
        return f"the model is a {type(model).__name__}, not a Qwen3"
    if weight.device.type != "cpu":
        return f"the model is on {weight.device}, not on a CPU"
    if dtype != torch.bfloat16 and (dtype, weight.dtype) != (torch.float32, torch.float32):
        return f"the model is {weight.dtype}, to be run in {dtype}; float32 or bfloat16 can be run"
    if dtype == torch.bfloat16 and weight.dtype not in (torch.float32, torch.bfloat16):
        return f"the model is {weight.dtype}, neither float32 nor bfloat16"
    if dtype == torch.bfloat16 and "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        return "the processor does not multiply bfloat16 (AVX512-BF16)"
    return no_compiler()


@functools.cache
def _library() -> ctypes.CDLL:
    """The compiled source."""
    try:
        library = compiled(_SOURCE, "engine")
    except AskesisError as error:
        raise EngineError(str(error)) from error
    library.engine_new.restype = _POINTER
    library.engine_new.argtypes = [_POINTER, _POINTER, ctypes.c_int32]
    library.engine_free.argtypes = [_POINTER]
    library.engine_knows_half.restype = ctypes.c_int32
    if library.engine_knows_half():
        library.engine_pack.argtypes = [_POINTER, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, _POINTER]
    library.engine_step.argtypes = [_POINTER, _POINTER, ctypes.c_int32, _POINTER, ctypes.c_int32]
    return library


def _pack(library: ctypes.CDLL, matrix: Tensor, into: Tensor | None) -> Tensor:
    """A matrix [rows, inputs] as `native.cpp` wants it in bfloat16, rows and inputs filled up with zeros."""
    rows, inputs = matrix.shape
    if into is None:
        into = torch.empty((-(-rows // _PANEL), -(-inputs // 2), _PANEL, 2), dtype=torch.bfloat16)
    matrix = matrix.contiguous()
    half = matrix.dtype == torch.bfloat16
    library.engine_pack(matrix.data_ptr(), half, rows, inputs, into.data_ptr())
    return into


def _address(tensor: Tensor, name: str) -> int:
    if not tensor.is_contiguous():
        raise EngineError(f"parameter {name} is not contiguous; call .contiguous() on it")
    return tensor.data_ptr()


class NativeBackend:
    """`Backend` over `native.cpp`, in float32 or bfloat16. threads: None takes as many as torch has."""

    def __init__(
        self, model: Qwen3, *, rows: int, length: int, dtype: torch.dtype = torch.float32, threads: int | None = None
    ) -> None:
        self.name = "native" if dtype == torch.float32 else "native bfloat16"
        self.model = model
        self.length = -(-length // _LANES) * _LANES
        self.threads = threads or torch.get_num_threads()
        self._library = _library()
        self._half = dtype == torch.bfloat16
        if self._half and not self._library.engine_knows_half():
            raise EngineError(f"the compiler {compiler()!r} does not know this processor's bfloat16")
        config = model.config
        padded = -(-config.head_dim // _LANES) * _LANES
        block = config.num_hidden_layers * config.num_key_value_heads * (config.head_dim + padded) * _LANES
        number = np.dtype(np.uint16 if self._half else np.float32)
        self.cache = lazy_zeros((rows, self.length // _LANES, block), number)
        self._rotary = Rotary(config)
        self._copies: dict[str, Tensor] = {}
        self._packed_at = -1
        self._engine: int | None = None
        self._addresses: tuple[int, ...] = ()

    def __del__(self) -> None:
        self._free()

    def _free(self) -> None:
        if getattr(self, "_engine", None) is not None:
            self._library.engine_free(self._engine)
            self._engine = None

    def refresh(self, *, changed: bool) -> None:
        """Look up where the parameters are; the threads start anew if that has changed."""
        config, model = self.model.config, self.model
        self._rotary.reserve(self.length, torch.empty(0))
        parameters = {**dict(model.named_parameters()), "lm_head.weight": model.lm_head.weight}
        if self._half:
            parameters |= self._packed(parameters, changed=changed)
        layers = (_Layer * config.num_hidden_layers)()
        addresses = []
        for index in range(config.num_hidden_layers):
            for field, name in _LAYER.items():
                name = f"model.layers.{index}.{name}.weight"
                addresses.append(_address(parameters[name], name))
                setattr(layers[index], field, addresses[-1])
        others = {
            "embed": model.model.embed_tokens.weight,
            "norm": parameters["model.norm.weight"],
            "head": parameters["lm_head.weight"],
            "cos": self._rotary.cos,
            "sin": self._rotary.sin,
        }
        top = {name: _address(tensor, name) for name, tensor in others.items()}
        found = (*addresses, *top.values())
        if found == self._addresses:
            return
        self._free()
        described = _Model(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            length=self.length,
            half=self._half,
            half_embed=model.model.embed_tokens.weight.dtype == torch.bfloat16,
            eps=config.rms_norm_eps,
            cache=self.cache.ctypes.data,
            **top,
        )
        self._engine = self._library.engine_new(ctypes.byref(described), ctypes.byref(layers), self.threads)
        self._addresses = found

    def _packed(self, parameters: Mapping[str, Tensor], *, changed: bool) -> dict[str, Tensor]:
        """What the engine reads in bfloat16 instead of the parameters: packed matrices, and norms in float32.

        changed: pack whether or not torch knows of a change, for not every way to change them leaves a sign of it.
        """
        version = sum(parameter._version for parameter in parameters.values())
        if changed or version != self._packed_at:
            with torch.no_grad():
                for name, tensor in parameters.items():
                    if tensor.ndim == 1:
                        self._copies.setdefault(name, torch.empty(tensor.shape)).copy_(tensor.detach())
                    elif name != "model.embed_tokens.weight":
                        self._copies[name] = _pack(self._library, tensor.detach(), self._copies.get(name))
            self._packed_at = version
        return self._copies

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` positions of row `source` to row `target`."""
        blocks = -(-count // _LANES)
        self.cache[target, :blocks] = self.cache[source, :blocks]

    def clear(self) -> None:
        """Nothing to do: no position is read that was not written for the row's own tokens."""

    def step(self, batch: Batch) -> tuple[Array, Array]:
        """As many steps as `Backend.step` may make. The interpreter's lock is free meanwhile."""
        how, many = batch.draw, len(batch.drawing)
        drawing = np.full(len(batch.rows), -1, dtype=np.int32)
        drawing[batch.drawing] = np.arange(many, dtype=np.int32)
        drawn = np.empty((batch.most, many), dtype=np.int32)
        logprobs = np.empty((batch.most, many), dtype=np.float32)
        logits = np.empty((many, self.model.config.vocab_size), dtype=np.float32) if how.truncated else None
        starts = batch.starts.copy()
        arrays = (batch.tokens, starts, batch.rows, batch.counts, drawing)
        given = _Batch(
            *(array.ctypes.data for array in arrays),
            len(batch.rows),
            how.noise.ctypes.data,
            how.temperature.ctypes.data,
            drawn.ctypes.data,
            logprobs.ctypes.data,
            None if logits is None else logits.ctypes.data,
        )
        watch = batch.watch
        done = self._library.engine_step(
            self._engine, ctypes.byref(given), batch.most, watch.ctypes.data, watch.shape[1] if many else 0
        )
        if logits is None:
            return drawn[:done], logprobs[:done]
        # only those that are truncated: the others keep what they would have got without them, to the bit
        rows = np.flatnonzero((how.top_k > 0) | (how.top_p < 1) | (how.min_p > 0))
        with torch.inference_mode():
            columns = (logits, how.noise[0], how.temperature, how.top_k, how.top_p, how.min_p)
            tensors = [torch.from_numpy(array[rows]) for array in columns]
            tokens, chosen = draw(tensors[0], tensors[1], tensors[2], (tensors[3], tensors[4], tensors[5]))
        drawn[0, rows], logprobs[0, rows] = tokens.numpy(), chosen.numpy()
        return drawn, logprobs
