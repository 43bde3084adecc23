"""`research`: worlds that can be read, an oracle that reads them, and readers whose habits show in success."""

import re

import pytest

from askesis.envs import load_env
from askesis.loop import play_policy
from askesis.types import ConfigError


@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_decides_stands_in_the_corpus_and_nowhere_in_the_prompt(level):
    env = load_env("research", levels=[level])
    for task in env.tasks("train", seed=5, limit=20):
        bodies = {id: body for id, _, _, body in task.data["documents"]}
        sources = {id: source for id, source, _, _ in task.data["documents"]}
        assert len(task.data["hops"]) == level
        for hop in task.data["hops"]:
            ((document, sentence),) = hop["accept"]
            assert sentence in bodies[document].split("\n\n") and sources[document] == "register"
        assert task.data["hops"][-1]["accept"][0][1].endswith(f" is {task.data['answer']}.")
        assert not re.search(rf"\b{task.data['answer']}\b", task.prompt)
        for document, sentence in task.data["weak"]:
            assert sentence in bodies[document]


async def test_reading_well_succeeds_and_reading_hastily_does_not():
    env = load_env("research")
    shares = {}
    for quality in ("good", "poor", "hasty"):
        evaluation = await play_policy(
            env, lambda spec, tools, q=quality: env.demonstrator(spec.task, seed=1, quality=q), tasks=40
        )
        shares[quality] = evaluation.rows[0].summary.success
    oracle = await play_policy(env, "oracle", tasks=20)
    await env.close()
    assert oracle.rows[0].summary.success == 1.0
    assert shares["good"] > shares["poor"] > 0.1
    assert shares["good"] > shares["hasty"] + 0.2


def test_options_that_make_no_sense_are_refused():
    for options, said in (({"levels": [4]}, "levels"), ({"levels": []}, "levels"), ({"hops": 2}, "do not fit")):
        with pytest.raises(ConfigError, match=said):
            load_env("research", **options)
    env = load_env("research")
    with pytest.raises(ConfigError, match="hasty"):
        env.demonstrator(env.tasks("train", limit=1)[0], seed=0, quality="hast")
