"""A process of `bench step`: `askesis.train`. `python -m bench.step_ours WORKLOAD CHECKPOINT THREADS FOLDER DTYPE`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from askesis.loop import Display, StepRecord, train
from bench import step_workload as work


class Gated(Display):
    """Shows nothing, and lets the run go on when it is asked to. A step lasts until the next one could begin."""

    def __init__(self, gate: work.Gate) -> None:
        super().__init__(quiet=True)
        self.gate = gate

    def step(self, record: StepRecord, left: str) -> None:
        """One is done."""
        self.gate.leave(
            {
                "sample_s": record.sample_s,
                "train_s": record.train_s,
                "episodes": record.episodes,
                "groups": record.trained_groups,
                "turns": record.turns,
                "sampled_tokens": record.sampled_tokens,
                "trained_tokens": record.trained_tokens,
                "reward": record.reward,
            }
        )
        self.gate.enter()


def recipe(given: work.Work, checkpoint: str, threads: int, folder: str, dtype: str) -> dict[str, Any]:
    """What both trainers do, in our words."""
    return {
        "run": {"name": "bench", "steps": 1_000_000, "threads": threads, "out": folder},
        "model": {"checkpoint": checkpoint},
        "env": {"name": given.env},
        "rollout": {
            "tasks_per_step": given.tasks,
            "group_size": given.group,
            "modes": [{"thinking": given.thinking}],
            "slots": given.episodes,
            "context_length": work.CONTEXT,
            "dtype": dtype,
            "limits": {"max_turns": given.turns, "max_turn_tokens": given.turn_tokens},
        },
        "reward": {"turn_cost": given.turn_cost, "on_success_only": False},
        "train": {
            "algorithm": "dapo",
            "advantage": "grpo",
            "optimizer": "adamw",
            "lr": work.RATE,
            "clip_low": work.CLIP[0],
            "clip_high": work.CLIP[1],
            "dtype": dtype,
        },
        "eval": {"tasks": 0},
        "checkpoint": {"every_steps": 1_000_000},
        "log": {"tensorboard": False},
    }


def main() -> None:
    """Until stdin ends."""
    gate = work.Gate(time.time())
    name, checkpoint, threads, folder, dtype = sys.argv[1:6]
    gate.enter()
    with suppress(EOFError):
        train(recipe(work.WORK[name], checkpoint, int(threads), folder, dtype), display=Gated(gate))


if __name__ == "__main__":
    main()
