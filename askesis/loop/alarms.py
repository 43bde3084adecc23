"""Alarms: what makes a run worth less than it looks, said in plain words while there is time to do something."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from askesis.loop.results import Alarm, StepRecord

GAP = "logprob_gap"
GAP_BAND = 1e-3  # nats; the engine and the trainer compute the same float32 sums in another order
ROUNDED_BAND = 0.5  # where one of them rounds to bfloat16
INFRASTRUCTURE = 0.1  # share of attempts
GIVEN_UP = 0.1  # share of a step's groups
QUIET = 10  # steps: one that comes back after fewer has not really been away


class Alarms:
    """Watches steps; each kind is told when it begins, and again when it comes back after `QUIET` steps; all count.

    history: steps of the run that were watched before it was resumed. band: nats a token by which sampler and trainer
    may be apart.
    """

    def __init__(self, history: Iterable[StepRecord] = (), *, band: float = GAP_BAND) -> None:
        self._band = band
        self._seen: dict[str, Alarm] = {}
        self._made = ""  # the fingerprint of the weights that the last step made
        for record in history:
            self.observe(record)

    def observe(self, record: StepRecord) -> list[Alarm]:
        """What is to be said now."""
        new = []
        made, self._made = self._made, record.made
        for kind, message in _alarms(record, made, self._band):
            alarm = self._seen.get(kind)
            if alarm is None:
                alarm = Alarm(kind=kind, message=message, first=record.step, last=record.step)
                new.append(alarm)
            else:
                if record.step > alarm.last + QUIET:
                    new.append(replace(alarm, message=message))
                alarm = replace(alarm, message=message, last=record.step, count=alarm.count + 1)
            self._seen[kind] = alarm
        return new

    @property
    def all(self) -> list[Alarm]:
        """Every kind that was seen, with its latest message, first and last step."""
        return list(self._seen.values())


def _alarms(record: StepRecord, made: str, band: float) -> Iterator[tuple[str, str]]:
    """Kind and message of all that is wrong with a step. made: by the step before it, if that is known."""
    if made and record.began and record.began != made:
        message = (
            f"this step sampled and trained weights with the fingerprint {record.began}, but the step before had made "
            f"{made}: something else has changed them. Go on from a checkpoint written before"
        )
        yield "weights", message
    if record.episodes > record.infrastructure and record.truncated >= 1.0:
        message = (
            "every episode ran into a token limit, so none can learn to finish. Raise rollout.limits.max_turn_tokens "
            "or rollout.context_length, or start from a model that stops by itself"
        )
        yield "all_truncated", message
    judged = record.groups - record.dropped.get("infrastructure", 0)
    if judged and record.dropped.get("no_variance", 0) == judged:
        message = (
            f"in every group all rewards are equal (mean {record.reward:.2f}), so nothing was learned. The tasks are "
            "too hard or too easy for this model, or rollout.group_size is too small"
        )
        yield "no_variance", message
    came = record.groups + record.given_up
    if came and record.given_up / came > GIVEN_UP:
        message = (
            f"{record.given_up} of {came} groups were given up, as a rule for holding the trainer back; their "
            "prompts are drawn again. What takes longest is lost first: raise "
            "rollout.staleness, or lower rollout.tasks_per_step"
        )
        yield "given_up", message
    if record.repeated_updates:
        message = (
            f"the weights of version {record.version} were sent to the engine {record.repeated_updates + 1} times: it "
            "refused them for their fingerprint, or did not answer; the log says which"
        )
        yield "update", message
    gap = record.trainer.get(GAP, 0.0)
    if gap > band:
        message = f"sampler and trainer disagree by {gap:.1e} nats a token (band {band:.0e}): not the same policy"
        yield "logprob_gap", message
    attempts, broken = record.episodes + record.retried, record.infrastructure + record.retried
    if attempts and broken / attempts > INFRASTRUCTURE:
        message = f"{broken} of {attempts} attempts were ended by the machinery, not by the policy"
        first = f". The first: {record.lost}" if record.lost else ""
        yield "infrastructure", f"{message}; they are not trained on{first}"
    if record.finding:
        held = record.dropped.get("quarantine", 0)
        kept = f" {held} of {record.groups} groups were kept out of training." if held else ""
        yield "monitor", f"{record.finding}.{kept} All findings: findings.jsonl in the run's folder"
    wrong = [name for name, value in record.trainer.items() if not math.isfinite(value)]
    if wrong and record.trained_groups:
        yield "not_finite", f"{', '.join(wrong)}: not a finite number. Lower train.lr, or look at the rewards"
