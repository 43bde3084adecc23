"""Training on trees beside the two other ways to train on the same episodes: a sample a turn, and merged turns.

A group of 8 episodes begins with one prompt. `turns`: each turn says something and sees an answer, and what later turns
see only grows. `branches`: a user speaks every 4 turns, and what was thought before is left out from then on, as
Qwen3's template does it, so that an episode is a tree of as many branches. Each sampled token carries loss once.

- a sample a turn: each turn with all that comes before it, loss on the turn alone;
- merged turns: a sample a branch, which for `turns` is a sample an episode;
- tree: what our loop makes of the traces, shared tokens once.

The rivals run through the same code with sharing switched off: packed without padding in C++ and in torch, and in rows,
padded, of like length, with the built-in causal attention; each with parts of `BATCHES` tokens. The best of these is
measured; where trying all would take too long, the one that was best for fewer turns. Gradients of the whole step are
compared in the same run, each way with the tree, in float32. forward: the log-probabilities alone; seconds: a whole
step, planning included, the optimiser left out. Both are seconds of one core: whoever else uses the machine has little
say in them, and on more threads parts of all ways go side by side alike.

Options: `turns` (8,32,128), `repeats` (3; fewer of what takes long), `threads` (1), `backends` (native,torch), `kinds`,
`lines` (a file that gets a line for each workload, and from which a run that was stopped goes on).
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from askesis.loop.samples import trace_samples
from askesis.models import ModelConfig, build
from askesis.train import POLICY_LOSSES, Minibatch, Optimisers, Trainer, minibatch
from askesis.types import Message, Node, Outcome, Sample, Task, Text, Timing, Trace, ids
from bench.result import Options, Result

GROUP, PROMPT, PART, EVERY = 8, 128, 12, 4  # episodes; tokens of the prompt and of each message; turns a user message
VOCABULARY = 796
BATCHES = (2048, 8192)
GOAL, AT, BOUND = 7.0, 32, 1e-4
RIVALS = ("a sample a turn", "merged turns")
WAYS = ("tree", *RIVALS)
LONG = 128
ENOUGH = 20.0  # seconds, after which something is not measured once more
SHAPE = ModelConfig(  # of askesis-tiny
    vocab_size=VOCABULARY,
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    intermediate_size=512,
    tie_word_embeddings=True,
    max_position_embeddings=8192,
    rope_theta=10_000.0,
)


# -- episodes ------------------------------------------------------------------------------------------------------


def _node(rng: np.random.Generator, parent: int, size: int, *, sampled: bool = False) -> Node:
    return Node(
        parent=parent,
        message=Message(role="assistant" if sampled else "user", parts=(Text(text="."),)),
        sampled=sampled,
        token_ids=ids(rng.integers(0, VOCABULARY, size)),
        mask=np.full(size, sampled),
        logprobs=np.full(size, -6.0 if sampled else 0.0, dtype=np.float32),
        policy_versions=np.zeros(size, dtype=np.int32),
    )


def _straight(rng: np.random.Generator, prompt: Node, turns: int) -> list[Node]:
    nodes = [prompt]
    for _ in range(turns):
        nodes.append(_node(rng, len(nodes) - 1, PART, sampled=True))
        nodes.append(_node(rng, len(nodes) - 1, PART))
    return nodes


def _branching(rng: np.random.Generator, prompt: Node, turns: int) -> list[Node]:
    """Within `EVERY` turns thoughts stay; the next user message comes after the same words without them."""
    nodes, trunk = [prompt], 0
    for _ in range(0, turns, EVERY):
        nodes.append(_node(rng, trunk, PART))
        trunk = at = len(nodes) - 1
        kept: list[Node] = []
        for _ in range(EVERY):
            nodes.append(_node(rng, at, 2 * PART, sampled=True))  # a thought, and what is said
            said = nodes[-1]
            nodes.append(_node(rng, len(nodes) - 1, PART))
            at = len(nodes) - 1
            kept += [_view(said, PART), nodes[at]]
        for node in kept:
            nodes.append(replace(node, parent=trunk))
            trunk = len(nodes) - 1
    return nodes


def _view(node: Node, tokens: int) -> Node:
    """Its last tokens, as something that is seen."""
    bare = {"mask": np.zeros(tokens, dtype=bool), "logprobs": np.zeros(tokens, dtype=np.float32)}
    cut = {"token_ids": node.token_ids[-tokens:], "policy_versions": node.policy_versions[-tokens:]}
    return replace(node, sampled=False, **bare, **cut)


KINDS = {"turns": _straight, "branches": _branching}


def group(kind: str, turns: int) -> list[Trace]:
    """A group of episodes after one prompt."""
    rng = np.random.default_rng(turns)
    prompt = _node(rng, -1, PROMPT)
    return [
        Trace(
            id=str(number),
            task=Task(env="bench", prompt="."),
            harness="none",
            nodes=tuple(KINDS[kind](rng, prompt, turns)),
            rewards=(),
            outcome=Outcome(by="policy", reason="submitted"),
            timing=Timing(),
        )
        for number in range(GROUP)
    ]


def merged(traces: Sequence[Trace]) -> list[Sample]:
    """A sample a branch that anything was sampled in."""
    rng = np.random.default_rng(0)
    return [one for trace in traces for one in trace_samples(trace, float(rng.normal()), group="0")]


def by_turn(traces: Sequence[Trace]) -> list[Sample]:
    """A sample for each sampled message: the message, after all that the model saw before it."""
    return [cut for sample in merged(traces) for cut in _turns(sample)]


def _turns(sample: Sample) -> list[Sample]:
    edges = np.flatnonzero(np.diff(sample.mask.astype(np.int8), prepend=0, append=0))
    found = []
    for first, last in edges.reshape(-1, 2):
        mask = np.zeros(last, dtype=bool)
        mask[first:] = True
        columns = {"token_ids": sample.token_ids[:last], "policy_versions": sample.policy_versions[:last]}
        columns |= {name: np.where(mask, getattr(sample, name)[:last], 0) for name in ("logprobs", "advantages")}
        found.append(replace(sample, mask=mask, **{k: v.astype(getattr(sample, k).dtype) for k, v in columns.items()}))
    return found


# -- ways ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a way is computed."""

    backend: str
    batch_tokens: int
    shared: bool = False
    rows: bool = False

    @property
    def name(self) -> str:
        """For people."""
        kind = "tree" if self.shared else "rows" if self.rows else "packed"
        return f"{self.backend} {kind} {self.batch_tokens}"


class Rows(Trainer):
    """Torch's backend as it is for models that take no attention from outside: padded rows."""

    def _parts(self, samples: Sequence[Sample]) -> Minibatch[Any]:
        return minibatch(samples, self._batch_tokens, self._device, threads=self._threads)


class Way:
    """One way and form, ready to be measured again and again."""

    def __init__(self, form: Form, samples: Sequence[Sample], threads: int) -> None:
        self.form, self.samples = form, samples
        self.model = build(SHAPE)
        self.model.initialise(0, 0.05)
        made: dict[str, Any] = {
            "loss": functools.partial(POLICY_LOSSES["dapo"], low=0.2, high=0.28, kl=0.0),
            "optimisers": Optimisers(self.model, kind="adamw", lr=1e-4, muon_lr=1e-3),
            "batch_tokens": form.batch_tokens,
            "grad_clip": 0.0,
            "threads": threads,
            "backend": form.backend,
        }
        self.trainer = (Rows if form.rows else Trainer)(self.model, least=8 if form.shared else None, **made)
        self.trainer.optimisers.step = lambda progress: 1.0  # type: ignore[method-assign]

    def measure(self) -> dict[str, float]:
        """Seconds of a forward pass and of a whole step."""
        started = time.process_time()
        self.trainer.logprobs(self.samples)
        between = time.process_time()
        self.trainer.step(self.samples)
        return {"forward_s": between - started, "seconds": time.process_time() - between}

    def gradient(self) -> torch.Tensor:
        """Of the step that was measured last, all parameters one after the other."""
        return torch.cat(
            [parameter.grad.flatten() for parameter in self.model.parameters() if parameter.grad is not None]
        )

    def tokens(self) -> int:
        """That go through the model in a step, padding too."""
        if self.form.rows:
            return sum(part.tokens.numel() for part in self.trainer._parts(self.samples).parts)
        parts: Any = self.trainer._parts(self.samples).parts
        return sum(len(part.forest.tokens) for part in parts)


def forms(way: str, backend: str) -> list[Form]:
    """All that a way may have on a backend."""
    found = [Form(backend=backend, batch_tokens=size, shared=way == "tree") for size in BATCHES]
    if way != "tree" and backend == "torch":
        found += [replace(form, rows=True) for form in found]
    return found


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    threads, repeats = options.number("threads", 1), options.number("repeats", 3)
    lengths = sorted(int(turns) for turns in options.values.get("turns", f"8,{AT},{LONG}").split(","))
    backends = options.values.get("backends", "native,torch").split(",")
    kinds = options.values.get("kinds", ",".join(KINDS)).split(",")
    lines = Path(options.values["lines"]) if "lines" in options.values else None
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines and lines.exists() else []
    for turns in lengths:
        for kind in kinds:
            traces = group(kind, turns)
            for backend in backends:
                if any(line["key"] == f"{kind}_{turns}_{backend}" for line in done):
                    continue
                line = _measured(kind, turns, backend, traces, threads, repeats, _known(done, kind, backend))
                done.append(line)
                print(line["told"], file=sys.stderr, flush=True)
                if lines:
                    with lines.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    return _result(done, threads)


def _result(done: Sequence[Mapping[str, Any]], threads: int) -> Result:
    found: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    spread: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for line in done:
        for way, figures in line["ways"].items():
            for figure, values in figures.items():
                found[way][f"{line['key']}_{figure}"] = round(statistics.median(values), 4)
                spread[way][f"{line['key']}_{figure}"] = [round(min(values), 4), round(max(values), 4)]
    ratios, error = _ratios(found), max(line["error"] for line in done)
    headline = min((r["a sample a turn"] for key, r in ratios.items() if f"_{AT}_" in key), default=0.0)
    slowest, most = (f(r["merged turns"] for r in ratios.values()) for f in (min, max))
    return Result(
        name="tree",
        command="python -m bench tree",
        goal=f"at {AT} turns at least {GOAL:g} x faster than a sample a turn, and never slower than merged turns",
        ours=found["tree"] | {"gradient_error": error},
        peers={name: found[name] for name in RIVALS},
        spread=spread,
        ratio=round(headline, 3),
        met=headline >= GOAL and slowest >= 1.0 and error <= BOUND,
        notes=[
            f"gradients: at most {error:.1e} apart, as a share of their norm; goal {BOUND:g}",
            f"merged turns take {slowest:.2f} to {most:.2f} x as long as trees",
            f"seconds of a CPU, {threads} thread(s); groups of {GROUP}, prompts of {PROMPT} tokens, messages of {PART}",
        ],
    )


def _known(done: Sequence[Mapping[str, Any]], kind: str, backend: str) -> dict[str, Form]:
    """The form of each way that was the fastest where there were fewer turns."""
    lines = [line for line in done if line["key"].startswith(f"{kind}_") and line["key"].endswith(f"_{backend}")]
    return {way: Form(**form) for way, form in lines[-1]["forms"].items()} if lines else {}


def _measured(
    kind: str,
    turns: int,
    backend: str,
    traces: Sequence[Trace],
    threads: int,
    repeats: int,
    known: Mapping[str, Form],
) -> dict[str, Any]:
    """All ways on one workload, in turns; what takes long is not repeated as often."""
    samples = {"tree": merged(traces), "merged turns": merged(traces), "a sample a turn": by_turn(traces)}
    ways = {}
    for way, given in samples.items():
        kept = way in known and (turns >= LONG or way == "a sample a turn")
        tried = [Way(form, given, threads) for form in ([known[way]] if kept else forms(way, backend))]
        for one in tried if len(tried) > 1 else ():
            one.measure()
        ways[way] = min(tried, key=lambda one: one.measure()["seconds"]) if len(tried) > 1 else tried[0]
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, one in ways.items():
            if sum(sum(measured.values()) for measured in taken[way]) < ENOUGH:
                taken[way].append(one.measure())
    apart = [_apart(ways["tree"].gradient(), ways[way].gradient()) for way in RIVALS]
    figures: dict[str, dict[str, list[float]]] = {
        way: {figure: [measured[figure] for measured in taken[way]] for figure in ("seconds", "forward_s")}
        | {"tokens": [float(one.tokens())]}
        for way, one in ways.items()
    }
    key = f"{kind}_{turns}_{backend}"
    told = ", ".join(f"{way} {min(figures[way]['seconds']):.2f} s ({one.form.name})" for way, one in ways.items())
    return {
        "key": key,
        "ways": figures,
        "forms": {way: asdict(one.form) for way, one in ways.items()},
        "error": max(apart),
        "told": f"{key}: {told}; gradients {apart[0]:.1e}, {apart[1]:.1e} apart",
    }


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


def _ratios(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By kind, turns and backend: how many times as long as a tree each rival takes."""
    keys = [name.removesuffix("_seconds") for name in found["tree"] if name.endswith("_seconds")]
    return {
        key: {way: found[way][f"{key}_seconds"] / found["tree"][f"{key}_seconds"] for way in RIVALS} for key in keys
    }


# -- pages ---------------------------------------------------------------------------------------------------------


def table(kept: Mapping[str, Any]) -> str:
    """The page's table."""
    found = {"tree": kept["ours"], **kept["peers"]}
    lines = [
        "| episodes | backend | tokens: a sample a turn | merged | tree "
        "| seconds: a sample a turn | merged | tree | x a turn | x merged |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, ratios in _ratios(found).items():
        kind, turns, backend = key.split("_")
        ways = ("a sample a turn", "merged turns", "tree")
        tokens = " | ".join(f"{found[way][f'{key}_tokens']:,.0f}" for way in ways)
        seconds = " | ".join(f"{found[way][f'{key}_seconds']:.2f}" for way in ways)
        times = f"{ratios['a sample a turn']:.1f} | {ratios['merged turns']:.2f}"
        what = f"{turns} turns" + (", branches" if kind == "branches" else "")
        lines.append(f"| {what} | {backend} | {tokens} | {seconds} | {times} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in kept["notes"])])


def row(kept: Mapping[str, Any]) -> str:
    """One line."""
    goal = "met" if kept["met"] else "not met"
    return (
        f"- **Training on trees**: at {AT} turns {kept['ratio']:.1f} x faster than a sample a turn, with the same "
        f"gradients ({kept['ours']['gradient_error']:.0e} apart); goal {GOAL:g}, and never slower than merged turns: "
        f"{goal}. `{kept['command']}`"
    )
