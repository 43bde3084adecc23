"""One episode: tokens exact, every end typed, nothing lost."""

import numpy as np
from rollout_doubles import OFF, RENDERER, ScriptedEngine, ToyEnv, call, in_virtual_time, line, says, toy_task

from askesis.agents import SoloAgent
from askesis.rollout import EngineSpeakers, EpisodeSpec, Stage, run_episode


def play(engine, *, task=None, thinking=OFF, env=None, agent=None, **stage):
    env = env or ToyEnv()
    spec = EpisodeSpec(task=task or toy_task(), thinking=thinking, group="g", seed=1)
    made = Stage(speakers=EngineSpeakers(engine), renderer=RENDERER, env=env, agent=agent or SoloAgent(), **stage)
    trace = in_virtual_time(lambda: run_episode(spec, made))
    for state in env.states:
        assert state.closed
    return trace


def test_tokens_are_what_the_engine_saw_and_sampled():
    script = line(says("So:", call("add", a=12, b=30)), says("", call("add", a=1, b=1), call("submit")))
    engine = ScriptedEngine(script, seconds=2.0)
    trace = play(engine)
    assert (trace.outcome.by, trace.outcome.reason, trace.success) == ("policy", "submitted", True)
    (requests,) = engine.requests.values()
    last = requests[-1]
    [(tokens, mask, _, _)] = trace.sequences()
    assert np.array_equal(tokens, np.concatenate([last.tokens, last.completion.token_ids]))
    assert mask.sum() == sum(len(r.completion.token_ids) for r in requests)
    assert engine.released == [trace.id]
    assert trace.timing.engine_s == 4.0
    assert [n.message.role for n in trace.nodes] == ["user", "assistant", "tool", "assistant", "tool", "tool"]
