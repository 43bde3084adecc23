"""The pieces of the loop at their doors: the stream of prompts, groups into samples, alarms, values that travel."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_env import Toy

from askesis.loop.alarms import QUIET, Alarms
from askesis.loop.recipe import LimitOverrides, Mode
from askesis.loop.results import Alarm, Evaluation, Row, RunResult, StepRecord, from_plain, plain_values
from askesis.loop.samples import demonstration_samples, group_samples, trace_samples, why_dropped
from askesis.loop.stream import ModeDeal, PromptStream
from askesis.loop.threads import physical_cores
from askesis.rollout import summarise
from askesis.types import Group, Message, Node, Outcome, Reward, Task, Thinking, Timing, Trace, ids

# -- the stream ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=6), st.integers(0, 3))
def test_what_stands_at_a_place_does_not_depend_on_how_one_gets_there(takes, seed):
    def stream():
        modes = (Mode(thinking=True, share=2.0), Mode(thinking=False, share=1.0), Mode(thinking=True, budget=4))
        return PromptStream(Toy(), modes, pool=7, seed=seed, limits=LimitOverrides())

    straight = stream().take(0, 50)
    crooked = stream()
    for position, count in takes:
        assert crooked.take(position, count) == straight[position : position + count]
    assert len({prompt.group for prompt in straight}) == 50


def test_each_pass_over_the_tasks_has_them_all_in_another_order():
    class Few(Toy):
        def tasks(self, split, *, seed=0, limit=None):
            return [Task(env="few", prompt=str(n)) for n in range(5)]

    stream = PromptStream(Few(), (Mode(thinking=True),), pool=100, seed=0, limits=LimitOverrides(max_turns=3))
    passes = [[prompt.task.prompt for prompt in stream.take(start, 5)] for start in (0, 5, 10, 15)]
    assert all(sorted(one) == list("01234") for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    assert stream.take(0, 1)[0].task.limits.max_turns == 3


@given(st.lists(st.floats(0.05, 5.0), min_size=1, max_size=4))
def test_modes_get_their_shares_at_any_time(shares):
    deal = ModeDeal([Mode(thinking=True, budget=i, share=share) for i, share in enumerate(shares)])
    counts = [0] * len(shares)
    for place in range(60):
        counts[deal[place].budget] += 1
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - share / sum(shares) * (place + 1)) <= len(shares)


# -- groups into samples -------------------------------------------------------------------------------------------


def trace(reward, *, by="policy", tokens=((0, 0, 1), (1, 0, 1, 1)), branch=False):
    nodes = []
    for place, mask in enumerate(tokens):
        sampled = any(mask)
        nodes.append(
            Node(
                parent=0 if branch and place else place - 1,
                message=Message(role="assistant" if sampled else "user"),
                sampled=sampled,
                token_ids=ids(range(10 * place, 10 * place + len(mask))),
                mask=np.array(mask, dtype=np.bool_),
                logprobs=np.full(len(mask), -0.5, dtype=np.float32),
                policy_versions=np.full(len(mask), 3, dtype=np.int32),
            )
        )
    return Trace(
        id=f"t{reward}",
        task=Task(env="toy", prompt="p"),
        harness="solo@1",
        nodes=tuple(nodes),
        rewards=(Reward(name="success", value=reward),),
        outcome=Outcome(by=by, reason="r"),
        timing=Timing(),
        temperature=0.7,
    )


def group(*traces):
    return Group(id="g", task=Task(env="toy", prompt="p"), thinking=Thinking(), traces=traces)


def centred(rewards):
    return [reward - sum(rewards) / len(rewards) for reward in rewards]


def test_infrastructure_reaches_neither_baseline_nor_loss():
    whole = group(trace(1.0), trace(0.0), trace(100.0, by="sandbox"), trace(-100.0, by="cancelled"))
    samples = group_samples(whole, centred)
    assert [sample.trace_id for sample in samples] == ["t1.0", "t0.0"]
    assert [set(sample.advantages[sample.mask].tolist()) for sample in samples] == [{0.5}, {-0.5}]


@pytest.mark.parametrize(
    ("traces", "why"),
    [
        ([trace(1.0, by="engine"), trace(0.0, by="tool")], "infrastructure"),
        ([trace(1.0), trace(0.0, by="verifier")], "too_small"),
        ([trace(1.0), trace(1.0), trace(0.0, by="environment")], "no_variance"),
        ([trace(0.1 + 0.2), trace(0.3)], "no_variance"),
        ([trace(1.0), trace(0.0, by="limit")], None),
    ],
)
def test_groups_that_teach_nothing_are_dropped_by_reason(traces, why):
    assert why_dropped(group(*traces)) == why


def test_a_sample_carries_loss_exactly_where_the_policy_spoke():
    (sample,) = trace_samples(trace(1.0), 2.0, group="g")
    assert sample.token_ids.tolist() == [0, 1, 2, 10, 11, 12, 13]
    assert sample.mask.tolist() == [False, False, True, True, False, True, True]
    assert sample.advantages.tolist() == [0, 0, 2, 2, 0, 2, 2]
    assert sample.logprobs.tolist() == [0, 0, -0.5, -0.5, 0, -0.5, -0.5]
    assert (sample.temperature, sample.group) == (pytest.approx(0.7), "g")


def test_what_branches_share_is_trained_once():
    samples = trace_samples(trace(1.0, tokens=((1, 1), (1,), (1, 1)), branch=True), 1.0, group="g")
    assert len(samples) == 2
    assert sum(int(sample.mask.sum()) for sample in samples) == 5
    silent = trace_samples(trace(1.0, tokens=((0, 0),)), 1.0, group="g")
    assert silent == []


def test_demonstrations_may_teach_what_was_observed_too():
    (said,) = demonstration_samples([trace(1.0)])
    (everything,) = demonstration_samples([trace(1.0)], observations=0.5)
    assert said.advantages.tolist() == [0, 0, 1, 1, 0, 1, 1]
    assert everything.advantages.tolist() == [0.5, 0.5, 1, 1, 0.5, 1, 1]
    assert everything.mask.all()


# -- alarms --------------------------------------------------------------------------------------------------------


def record(step=1, **changes):
    values = {
        "step": step,
        "version": step,
        "seconds": 1.0,
        "sample_s": 0.5,
        "train_s": 0.5,
        "reward": 0.5,
        "success": 0.5,
        "success_by_mode": {"think": 0.5},
        "thinking_by_mode": {"think": 3.0},
        "turns": 2.0,
        "truncated": 0.0,
        "episodes": 20,
        "retried": 0,
        "infrastructure": 0,
        "groups": 4,
        "trained_groups": 4,
        "dropped": {},
        "outcomes": {"policy:submitted": 20},
        "sampled_tokens": 100,
        "trained_tokens": 200,
        "tool_s": 0.1,
        "trainer": {"loss": 0.1, "logprob_gap": 1e-6},
    }
    return StepRecord(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"truncated": 1.0}, "all_truncated", "max_turn_tokens"),
        ({"trained_groups": 0, "dropped": {"no_variance": 4}}, "no_variance", "too hard or too easy"),
        ({"dropped": {"no_variance": 3, "infrastructure": 1}}, "no_variance", "equal"),
        ({"trainer": {"logprob_gap": 0.1}}, "logprob_gap", "1.0e-01 nats"),
        (
            {"infrastructure": 3, "lost": "tool, timeout: look: 0.1 s"},
            "infrastructure",
            "3 of 20 attempts were ended by the machinery, not by the policy; they are not trained on. The first: tool",
        ),
        ({"retried": 5}, "infrastructure", "5 of 25"),
        ({"trainer": {"loss": math.nan}}, "not_finite", "loss"),
    ],
)
def test_alarms_are_raised_once_and_counted(changes, kind, words):
    alarms = Alarms()
    assert alarms.observe(record(1)) == []
    (alarm,) = alarms.observe(record(2, **changes))
    assert alarm.kind == kind
    assert words in alarm.message
    assert alarms.observe(record(3, **changes)) == []
    assert alarms.observe(record(4)) == []
    assert alarms.observe(record(5, **changes)) == []
    assert [again.kind for again in alarms.observe(record(6 + QUIET, **changes))] == [kind]
    (seen,) = alarms.all
    assert (seen.kind, seen.first, seen.last, seen.count) == (kind, 2, 6 + QUIET, 4)


def test_weights_that_changed_between_two_steps_are_an_alarm():
    alarms = Alarms([record(1, began="a", made="b")])  # of a run that was resumed
    assert alarms.observe(record(2, began="b", made="c")) == []
    (alarm,) = alarms.observe(record(3, began="x", made="d"))
    assert alarm.kind == "weights" and "had made c" in alarm.message
    assert alarms.observe(record(4, began="d", made="e")) == []


def test_dropped_groups_of_one_kind_among_good_ones_are_no_alarm():
    assert Alarms().observe(record(dropped={"no_variance": 3}, trained_groups=1, infrastructure=1)) == []


# -- values that travel --------------------------------------------------------------------------------------------


def test_results_survive_json():
    rows = (Row(mode="think", temperature=0.0, summary=summarise([trace(1.0)]), metrics={"edits": (1.5, 2)}),)
    evaluation = Evaluation(name="before", env="toy", tasks=1, rows=rows, step=3)
    assert from_plain(Evaluation, evaluation.to_json()) == evaluation
    lost = record(reward=math.nan)
    plain = plain_values(lost)
    assert plain["reward"] is None
    assert math.isnan(from_plain(StepRecord, plain).reward)
    assert plain_values(from_plain(StepRecord, plain)) == plain


def test_a_whole_result_comes_back_from_json():
    rows = (Row(mode="think", temperature=1.0, summary=summarise([trace(1.0)]), metrics={}),)
    result = RunResult(
        id="toy-1",
        folder=Path("runs/toy-1"),
        state="finished",
        stopped_by="steps",
        steps=1,
        seconds=1.0,
        wall_s=2.0,
        checkpoint=None,
        report=Path("runs/toy-1/report.html"),
        evaluations=(Evaluation(name="before", env="toy", tasks=1, rows=rows),),
        alarms=(Alarm(kind="no_variance", message="equal", first=1, last=1),),
        history=(record(),),
    )
    again = from_plain(RunResult, json.loads(json.dumps(result.to_json())))
    assert again == result
    assert again.evaluation("before").row("think").summary.success == 1.0


def test_threads_are_at_least_one():
    assert physical_cores() >= 1
