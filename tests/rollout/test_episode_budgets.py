"""Budgets as an episode keeps them: a turn's, what is left of the episode's, and how it is counted who closed."""

import math

import numpy as np
import pytest
from rollout_doubles import OFF, ON, RENDERER, ScriptedEngine, ToyEnv, call, line, says, toy_task

from askesis.agents import SoloAgent
from askesis.inference.thinking import Budgets
from askesis.rollout import EngineSpeakers, EpisodeSpec, Roller, Stage, hybrid, run_episode, summarise
from askesis.types import Completion, ConfigError, Thinking, ids, user
from bench.schedule_machine import in_virtual_time

ADD, SUBMIT = call("add", a=12, b=30), call("submit")
TAGS = RENDERER.thinking_limit(Thinking(budget=0))


class Thinker(ScriptedEngine):
    """Says what the script has, as an engine that keeps budgets would let it: what is cut off is not said."""

    def completion(self, said, sampling):
        drawn = RENDERER.render_completion(said, thinking=ON).tolist()
        budgets, out, skip = Budgets(1), [], False
        for token in drawn if not budgets.begin(0, sampling.thinking) else []:
            if skip:
                skip = token != TAGS.close_id
                continue
            if sampling.thinking is None:
                out.append((token, False))
                continue
            stop = np.array([token in sampling.stop])
            thrown, closing = budgets.observe(np.array([0]), np.array([token]), stop)
            out += [] if thrown[0] else [(token, False)]
            if closing:
                out += [(other, True) for other in sampling.thinking.closing]
                skip = token != TAGS.close_id
        tokens, forced = ids([token for token, _ in out]), np.array([put for _, put in out])
        logprobs = np.where(forced, 0, -1).astype(np.float32)
        versions = np.zeros(len(tokens), dtype=np.int32)
        return Completion(
            token_ids=tokens, logprobs=logprobs, forced=forced, finish_reason="stop", policy_versions=versions
        )


def play(messages, thinking, agent=None):
    engine = Thinker(line(*messages))
    stage = Stage(speakers=EngineSpeakers(engine), renderer=RENDERER, env=ToyEnv(), agent=agent or SoloAgent())
    spec = EpisodeSpec(task=toy_task(), thinking=thinking, group="g", seed=1)
    trace = in_virtual_time(lambda: run_episode(spec, stage))
    return trace, [node for node in trace.nodes if node.sampled]


def want(text):
    """How many tokens the double would think to think `text`: with the line breaks next to the tags."""
    return RENDERER.thinking_tokens(RENDERER.render_completion(says("", SUBMIT, reasoning=text), thinking=ON))


LONG = says("", ADD, reasoning="add 12 and 30, then add 12 and 30")
LAST = says("", SUBMIT, reasoning="add 12 and 30, then submit")


@pytest.mark.parametrize("budget", [None, 0, 5, 10**6])
def test_what_is_left_of_the_episodes_budget_bounds_each_turn(budget):
    each = want("add 12 and 30, then add 12 and 30")
    whole = each + 3
    trace, turns = play([LONG, LONG, LONG, LAST], Thinking(budget=budget, episode_budget=whole))
    own = [each if budget is None else min(each, budget)] * 3
    expected, left = [], whole
    for thought in [*own, min(want("add 12 and 30, then submit"), 10**6 if budget is None else budget)]:
        expected.append(min(thought, left))
        left -= expected[-1]
    assert [node.thinking_tokens for node in turns] == expected
    assert trace.thinking_tokens <= whole
    assert trace.outcome.reason == "submitted"  # the calls after a forced close are whole
    for node in turns:
        forced = ~node.mask
        assert forced.any() == node.forced_close and (node.logprobs[forced] == 0).all()
        assert node.token_ids[forced].tolist() == (list(TAGS.closing) if node.forced_close else [])


class Generous(SoloAgent):
    """An agent that grants itself more than its episode has."""

    async def run(self, session):
        session.add(user(session.task.prompt))
        while not session.ended:
            message = await session.turn(thinking=Thinking(budget=10**6))
            await session.call(message.tool_calls)


def test_an_agent_cannot_grant_itself_more_than_its_episode_has():
    trace, turns = play([LONG, LAST], Thinking(episode_budget=4), agent=Generous())
    assert [node.thinking_tokens for node in turns] == [4, 0] and trace.outcome.reason == "submitted"


def test_who_closed_is_told_apart_and_words_of_the_closing_are_no_thought():
    """The official closing text is a sentence inside the think tags; it must not count as thought or as trigger."""
    free, cut, none = (play([LONG, LAST], Thinking(budget=budget))[0] for budget in (None, 3, 0))
    quiet = play([says("", SUBMIT)], OFF)[0]
    summary = summarise([cut])
    assert (summary.closed_by_budget, summary.closed_by_itself, summary.triggered) == (1.0, 0.0, 1.0)
    assert (summary.thinking_tokens, summary.budget_error, summary.over_budget) == (6.0, 0.0, 0)
    summary = summarise([free])
    assert (summary.closed_by_budget, summary.closed_by_itself, summary.triggered) == (0.0, 1.0, 1.0)
    assert math.isnan(summary.budget_error) and summary.forced == 0.0
    summary = summarise([none])
    assert (summary.closed_by_budget, summary.triggered, summary.thinking_tokens) == (1.0, 0.0, 0.0)
    summary = summarise([quiet])
    assert (summary.closed_by_budget, summary.triggered) == (0.0, 0.0) and math.isnan(summary.forced)
    assert summarise([free, cut]).forced == 0.5


def test_a_budget_that_was_not_kept_shows():
    trace, _ = play([LONG, LAST], Thinking())
    loose = type(trace)(**{name: getattr(trace, name) for name in trace.__slots__} | {"thinking": Thinking(budget=2)})
    each = [want("add 12 and 30, then add 12 and 30"), want("add 12 and 30, then submit")]
    assert summarise([loose]).over_budget == max(each) - 2
    assert summarise([loose]).budget_error == pytest.approx(sum(n - 2 for n in each) / 2 / 2)


def test_hybrid_accuracy_is_how_often_the_chosen_mode_was_the_better_one():
    mute = says("", SUBMIT)  # thinks nothing although it may
    fails = says("I give up.")
    thinks, skips, lost = play([LONG, LAST], ON)[0], play([mute], ON)[0], play([fails], ON)[0]
    won, failed = play([mute], OFF)[0], play([fails], OFF)[0]
    cases = [  # free to think, without thinking; chose thinking, thinking is better
        (thinks, failed, True, True),
        (thinks, won, True, False),  # both succeed: thinking only costs
        (skips, won, False, False),
        (skips, failed, False, True),
        (lost, failed, False, False),
    ]
    for free, without, chose, better in cases:
        found = hybrid([free], [without])
        assert (found.tasks, found.chose, found.better, found.accuracy) == (1, chose, better, float(chose == better))
    assert hybrid([thinks], []) is None


def test_effort_that_nobody_turned_into_a_budget_is_refused_not_ignored():
    roller = Roller(ScriptedEngine(line(LAST)), RENDERER, ToyEnv(), SoloAgent())
    spec = EpisodeSpec(task=toy_task(), thinking=Thinking(effort=0.5), group="g", seed=1)

    async def main():
        return await roller.run([spec])

    with pytest.raises(ConfigError, match="never turned into a budget"):
        in_virtual_time(main)
