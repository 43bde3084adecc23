"""The real vLLM on this machine's CPU under the trainer: is what it sampled what is trained?

Needs `make venv-vllm`. One server of vLLM, and three parts. *Engine*: requests with and without thinking budgets, and
weights that are updated under them twice; every token's log-probability against the model of its version, in one pass
over the whole sequence. *Damage*: updates with a flipped bit, a file that is cut off, and a weight that is missing:
each must be refused with the old weights going on, and taken when it is repeated. *Training*: `repair`, in turns with
one update that is damaged on its way, and with rollout running ahead, where episodes go on under new weights.

ratio: the band within which sampler and trainer must agree, over the largest gap of a synchronous step (mean over a
step's tokens, as the trainer's alarm takes it). Options: `steps` (4) of each run, `python` (.venv-vllm/bin/python).
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import askesis.inference.vllm as vllm
from askesis import train
from askesis.chat import load_renderer
from askesis.inference.vllm.http import Client
from askesis.loop import RunFolder, RunResult, checkpoints
from askesis.loop.alarms import GAP, GAP_BAND
from askesis.models import Qwen3, fingerprint, load_checkpoint
from askesis.rollout import TraceStore
from askesis.types import Completion, EngineError, Piece, Sampling, Thinking, TokenIds, ids
from bench.result import Options, Result

CONTEXT, REQUESTS, TOKENS, STEPS = 1024, 24, 360, 4
GOAL = f"a mean gap of at most {GAP_BAND:g} nats a token, all damaged updates refused and repeated, all steps done"
Damage = Literal["", "bit", "cut", "missing"]


class Damaging(vllm.SharedMemory):
    """A courier that damages what it carries, as often as `left` says."""

    how: Damage = ""
    left = 0
    done = 0

    def write(self, weights: Mapping[str, Tensor], version: int) -> Path:
        """As `SharedMemory.write`."""
        how: Damage = ""
        if self.left:
            self.left, self.done, how = self.left - 1, self.done + 1, self.how
        if how == "missing":
            weights = {name: weights[name] for name in sorted(weights)[1:]}
        path = super().write(weights, version)
        data = bytearray(path.read_bytes())
        if how == "bit":
            data[len(data) // 2] ^= 4
        path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
        return path


def run(options: Options) -> Result:
    """The benchmark; see the module's text."""
    steps = options.number("steps", STEPS)
    python = options.values.get("python", ".venv-vllm/bin/python")
    folder = checkpoints.resolve("askesis-tiny")
    settings = vllm.VLLMSettings(checkpoint=str(folder), context_length=CONTEXT, cache_gib=0.25)
    server = vllm.Server(settings, python=python, env={"OMP_NUM_THREADS": "1"})
    began = time.monotonic()
    print("starting vLLM", file=sys.stderr, flush=True)
    asyncio.run(server.start())
    version = asyncio.run(Client(server.url).get("/version"))["version"]
    figures: dict[str, float] = {"start_s": time.monotonic() - began}
    try:
        figures |= asyncio.run(_engine(server, folder))
        os.environ["VLLM_API_KEY"] = server.key
        figures |= _training(server.url, steps)
    finally:
        asyncio.run(server.close())
    ours = {name: float(f"{value:.4g}") for name, value in figures.items()}
    met = ours["gap"] <= GAP_BAND and ours["in_flight_gap_max"] <= 10 * GAP_BAND
    met = met and ours["refused"] == ours["damaged"] and ours["refused_in_training"] == 1
    met = met and ours["steps"] == 2 * steps and ours["ledger_faults"] == 0 and ours["in_flight_episodes"] > 0
    return Result(
        name="vllm_training",
        command="python -m bench vllm_training" + ("" if steps == STEPS else f" --option steps={steps}"),
        goal=GOAL,
        ours=ours,
        peers={},
        spread={},
        ratio=float(f"{GAP_BAND / max(ours['gap'], 1e-9):.3g}"),
        met=met,
        notes=[
            f"vLLM {version}, float32, eager, one thread, askesis-tiny (1.1 M parameters); a CPU shows that the path "
            "is right, not how fast vLLM is on a GPU",
            "gaps in nats a token; gap: the largest mean of a synchronous step; in_flight_gap_max: of any single token",
        ],
    )


# -- the engine alone --------------------------------------------------------------------------------------------------


async def _engine(server: vllm.Server, folder: Path) -> dict[str, float]:
    """Requests over two updates, then damaged updates."""
    model, _ = load_checkpoint(folder)
    courier = Damaging()
    engine = vllm.VLLMEngine(
        vllm.Remote(server.url, key=server.key),
        context_length=CONTEXT,
        vocab_size=model.config.vocab_size,
        model=model,
        courier=courier,
    )
    await engine.update_weights({}, 0, fingerprint=fingerprint(model))
    figures = await _in_flight(engine, model, folder)
    figures |= await _damaged(engine, model, courier)
    await engine.close()
    return figures


async def _in_flight(engine: vllm.VLLMEngine, model: Qwen3, folder: Path) -> dict[str, float]:
    print("updates under requests in flight", file=sys.stderr, flush=True)
    renderer, draws = load_renderer(folder), np.random.default_rng(0)
    prompts = [ids(draws.integers(5, 700, size=20 + i)) for i in range(REQUESTS)]
    samplings = []
    for number in range(REQUESTS):
        limit = None if number % 2 else renderer.thinking_limit(Thinking(enabled=True, budget=number % 7))
        samplings.append(
            Sampling(
                temperature=0.8 + 0.1 * (number % 4),
                max_tokens=TOKENS,
                seed=number,
                thinking=None if limit is None else replace(limit, open=True),
            )
        )
    heard, versions, seconds = 0, {0: copy.deepcopy(model)}, []
    for version in (1, 2):  # before anything flies: on few cores it would land meanwhile
        _nudge(model, version)
        versions[version] = copy.deepcopy(model)
    meant = {version: fingerprint(one) for version, one in versions.items()}
    due = {REQUESTS * TOKENS * version // 4: asyncio.Event() for version in (1, 2)}

    def hear(piece: Piece) -> None:
        nonlocal heard
        heard += len(piece.token_ids)
        for tokens, event in due.items():
            if heard >= tokens:
                event.set()

    began = time.monotonic()
    tasks = [
        asyncio.create_task(engine.generate(prompt, sampling, on_tokens=hear))
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    for version, event in enumerate(due.values(), 1):
        await event.wait()
        updating = time.monotonic()
        await engine.update_weights(dict(versions[version].named_parameters()), version, fingerprint=meant[version])
        seconds.append(time.monotonic() - updating)
    said = await asyncio.gather(*tasks)
    lasted = time.monotonic() - began
    gaps = np.concatenate(
        [_gaps(versions, *three) for three in zip(prompts, said, (one.temperature for one in samplings), strict=True)]
    )
    return {
        "in_flight_tokens": sum(len(one.token_ids) for one in said),
        "in_flight_forced": int(sum(one.forced.sum() for one in said)),
        "in_flight_spanning": statistics.mean(len(set(one.policy_versions.tolist())) > 1 for one in said),
        "in_flight_gap_mean": float(gaps.mean()),
        "in_flight_gap_max": float(gaps.max()),
        "in_flight_tokens_per_s": sum(len(one.token_ids) for one in said) / lasted,
        "update_s": statistics.median(seconds),
    }


def _nudge(model: Qwen3, seed: int) -> None:
    """Other weights, as far away as a step of training may be."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            parameter.add_(0.02 * float(parameter.std()) * noise if parameter.ndim > 1 else 0.0)


@torch.no_grad()
def _gaps(versions: Mapping[int, Qwen3], prompt: TokenIds, said: Completion, temperature: float) -> np.ndarray:
    """Of each sampled token, how far its log-probability is from that of the model of its version."""
    sequence = torch.from_numpy(np.concatenate([prompt, said.token_ids])).long()[None]
    found = np.zeros(len(said.token_ids))
    for version in set(said.policy_versions.tolist()):
        model = versions[version]
        logits = model.logits(model(sequence))[0, len(prompt) - 1 : -1].float() / temperature
        exact = logits.log_softmax(-1).gather(1, sequence[0, len(prompt) :, None])[:, 0].numpy()
        here = said.policy_versions == version
        found[here] = np.abs(exact - said.logprobs)[here]
    return found[~said.forced]


async def _damaged(engine: vllm.VLLMEngine, model: Qwen3, courier: Damaging) -> dict[str, float]:
    """How many of the damaged updates were refused with everything as it was before, and then taken."""
    print("damaged updates", file=sys.stderr, flush=True)
    kinds: tuple[Damage, ...] = ("bit", "cut", "missing")
    prompt, sampling, refused = ids([5, 6, 7]), Sampling(max_tokens=12, seed=1), 0
    for number, kind in enumerate(kinds):
        version = engine.version
        before = await engine.generate(prompt, sampling)
        _nudge(model, 10 + number)
        courier.how, courier.left = kind, 1
        try:
            await engine.update_weights({}, version + 1, fingerprint=fingerprint(model))
        except EngineError as error:
            print(f"{kind}: {error}", file=sys.stderr, flush=True)
        else:
            continue
        after = await engine.generate(prompt, sampling)
        same = before.token_ids.tolist() == after.token_ids.tolist() and engine.version == version
        same = same and np.allclose(before.logprobs, after.logprobs, atol=1e-4)
        await engine.update_weights({}, version + 1, fingerprint=fingerprint(model))
        last = await engine.generate(prompt, sampling)
        refused += same and last.policy_versions.tolist() == [version + 1] * len(last.token_ids)
    return {"damaged": len(kinds), "refused": refused}


# -- training ----------------------------------------------------------------------------------------------------------


def _training(url: str, steps: int) -> dict[str, float]:
    """Two runs: in turns, with a damaged update, and ahead."""
    refusals = Refusals()
    logging.getLogger("askesis").addHandler(refusals)
    with tempfile.TemporaryDirectory() as out:
        try:
            with mock.patch.object(vllm, "SharedMemory", Third):  # a recipe names no courier of one's own
                turns = _train(url, steps, out, "rollout.staleness=0")
            ahead = _train(url, steps, out, "rollout.staleness=2")
        finally:
            logging.getLogger("askesis").removeHandler(refusals)
        spans = [_spans(one) for one in (turns, ahead)]
    gaps = [record.trainer[GAP] for record in turns.history if GAP in record.trainer]
    return {
        "steps": turns.steps + ahead.steps,
        "episodes": sum(record.episodes for one in (turns, ahead) for record in one.history),
        "infrastructure": sum(record.infrastructure for one in (turns, ahead) for record in one.history),
        "gap": max(gaps),
        "refused_in_training": refusals.seen,
        "in_flight_episodes": spans[1][0],
        "versions": spans[1][1],
        "ledger_faults": spans[0][2] + spans[1][2],
    }


class Refusals(logging.Handler):
    """Counts updates that did not arrive."""

    seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a message."""
        self.seen += "damaged on the way" in record.getMessage()


class Third(Damaging):
    """Damages the third file that it carries, which is that after the second step; repeated, it is the fourth."""

    files = 0

    def write(self, weights: Mapping[str, Tensor], version: int) -> Path:
        """As `SharedMemory.write`."""
        self.files += 1
        if self.files == 3:
            self.how, self.left = "bit", 1
        return super().write(weights, version)


def _train(url: str, steps: int, out: str, *more: str) -> RunResult:
    print(f"training: {' '.join(more)}", file=sys.stderr, flush=True)
    overrides = [f"run.steps={steps}", "run.threads=1", f'run.out="{out}"', "rollout.engine=vllm-server", *more]
    overrides += [f'rollout.vllm.url="{url}"', "rollout.tasks_per_step=4", "rollout.group_size=4", "eval.tasks=0"]
    return train("repair", overrides=[*overrides, "log.tensorboard=false"])


def _spans(result: RunResult) -> tuple[int, int, int]:
    """Episodes whose tokens are of several versions; versions in all; what is wrong with the ledger."""
    several, seen = 0, set()
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        for trace in store.traces(label="train"):
            versions = {int(v) for node in trace.nodes if node.sampled for v in node.policy_versions[node.mask]}
            several += len(versions) > 1
            seen |= versions
        return several, len(seen), len(store.ledger.check())


def table(kept: Mapping[str, Any]) -> str:
    """What docs/vllm.md shows."""
    ours = kept["ours"]
    lines = [
        "| | |",
        "|---|---|",
        f"| gap of a synchronous training step, nats a token (mean, the largest of all steps) | {ours['gap']:.1e} |",
        f"| gap of any token of {ours['in_flight_tokens']:.0f} sampled while weights changed twice, against those "
        f"that its version names | mean {ours['in_flight_gap_mean']:.1e}, largest {ours['in_flight_gap_max']:.1e} |",
        f"| requests whose tokens are of several versions | {100 * ours['in_flight_spanning']:.0f}% |",
        f"| an update in flight, seconds | {ours['update_s']:.2f} |",
        f"| damaged updates refused, and taken when repeated | {ours['refused']:.0f} of {ours['damaged']:.0f} |",
        f"| training steps done, in turns and ahead | {ours['steps']:.0f} |",
        f"| damaged updates in training, refused and repeated | {ours['refused_in_training']:.0f} of 1 |",
        f"| episodes of training that went on under new weights | {ours['in_flight_episodes']:.0f} |",
        f"| episodes that the machinery ended | {ours['infrastructure']:.0f} of {ours['episodes']:.0f} |",
        f"| faults in the ledgers | {ours['ledger_faults']:.0f} |",
    ]
    return "\n".join([*lines, "", f"`{kept['command']}`, {kept['date']}, {kept['machine']['cpu']}."])
