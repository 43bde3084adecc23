"""TensorBoard: every figure of every step, under `rollout/`, `thinking/`, `train/`, `pace/` and `time/`."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from askesis.loop.results import StepRecord


class Scalars:
    """Event files in a folder. A run that goes on adds one, and hides what was written before from step `first` on."""

    def __init__(self, folder: Path, *, first: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first)

    def step(self, record: StepRecord) -> None:
        """Write one step."""
        values = {
            "rollout/reward": record.reward,
            "rollout/success": record.success,
            "rollout/turns": record.turns,
            "rollout/truncated": record.truncated,
            "rollout/infrastructure": record.infrastructure / max(record.episodes, 1),
            "rollout/groups_trained": record.trained_groups,
            "time/sample_s": record.sample_s,
            "time/train_s": record.train_s,
            "time/tool_s": record.tool_s,
            "time/tokens_per_s": record.tokens_per_s,
        }
        if record.ahead:
            values |= {
                "pace/staleness": record.staleness,
                "pace/staleness_max": record.staleness_max,
                "pace/groups_given_up": record.given_up,
                "pace/groups_ready": record.ready,
                "pace/episodes_on_their_way": record.flying,
                "pace/trainer_waited_s": sum(record.waited.values()),
                "pace/rollout_held_s": record.held_s,
                "pace/sampled_length": record.sampled_length,
                "pace/taken_length": record.taken_length,
                "time/step_s": record.lasted_s,
            }
            values |= {f"pace/tokens_behind_{name}": share for name, share in record.distances.items()}
            values |= {f"pace/trainer_waited_for_{why}_s": seconds for why, seconds in record.waited.items()}
        values |= {f"rollout/success_{mode}": value for mode, value in record.success_by_mode.items()}
        values |= {f"rollout/thinking_tokens_{mode}": value for mode, value in record.thinking_by_mode.items()}
        for name in ("triggered", "closed_by_itself", "closed_by_budget"):
            values |= {f"thinking/{name}_{mode}": value for mode, value in getattr(record, name).items()}
        values |= {f"rollout/dropped_{reason}": count for reason, count in record.dropped.items()}
        values |= {f"train/{name}": value for name, value in record.trainer.items()}
        for name, value in values.items():
            self._writer.add_scalar(name.replace(":", "_"), value, record.step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()
