"""`team`: worlds whose parts only specialists can reach, an oracle that asks them, and habits that show in success."""

import random

import pytest

from askesis.agents import load_agent
from askesis.envs import load_env
from askesis.envs.team import world
from askesis.loop import play_policy
from askesis.types import ConfigError


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_latest_card_of_all_offices_decides(level):
    rng = random.Random(level)
    contradicted = 0
    for _ in range(50):
        drawn = world.draw(rng, level, 6)
        at = ""
        assert len(drawn.asked) == len(drawn.values) == len(drawn.decides) == {1: 2, 2: 2, 3: 4}[level]
        for (ship, relation), value, (office, number) in zip(drawn.asked, drawn.values, drawn.decides, strict=True):
            fact = (at if ship == world.THAT else ship, relation)
            cards = [card for own in drawn.cards.values() for card in own if (card.ship, card.relation) == fact]
            latest = max(cards, key=lambda card: card.day)
            assert latest == drawn.cards[office][number] and latest.value == value
            assert sum(card.day == latest.day for card in cards) == 1
            assert relation in drawn.keeps[office]
            at = value
        contradicted += len(drawn.contested)
        kept = [{office for office, own in drawn.keeps.items() if relation in own} for _, relation in drawn.asked]
        assert len(set().union(*kept)) > 1, "no one office has it all"
        assert not [value for value in drawn.values if f" {value}." in drawn.question.partition(": ")[2]]
    assert (contradicted > 75) == (level == 3)


async def test_asking_well_succeeds_and_asking_hastily_does_not():
    shares = {}
    for level in (1, 3):
        env = load_env("team", levels=[level])
        for quality in ("good", "poor", "hasty"):
            evaluation = await play_policy(
                env, lambda spec, tools, e=env, q=quality: e.demonstrator(spec.task, seed=1, quality=q), tasks=40
            )
            shares[level, quality] = evaluation.rows[0].summary.success
        assert shares[level, "good"] == 1.0 > shares[level, "poor"] > shares[level, "hasty"]
    assert shares[1, "poor"] > 0.5


async def test_without_sub_agents_nothing_can_be_found():
    """The harness `solo` has no `delegate`; and what the oracle says there is refused."""
    evaluation = await play_policy(load_env("team"), "oracle", tasks=10, agent=load_agent("solo"))
    assert evaluation.rows[0].summary.success == 0.0


async def test_faults_in_the_specialists_tools_are_met_and_the_oracle_goes_on():
    env = load_env("team", perturb={"fail": 0.2, "rename": 0.5, "useless": 2})
    row = (await play_policy(env, "oracle", tasks=30)).rows[0]
    assert row.summary.success == 1.0 and row.metrics["faults_injected"][0] > 0.5


def test_options_that_make_no_sense_are_refused():
    for options, said in (
        ({"levels": [4]}, "levels"),
        ({"levels": []}, "levels"),
        ({"ships": 2}, "ships"),
        ({"lines": 0}, "lines"),
        ({"hops": 2}, "do not fit"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_env("team", **options)
    env = load_env("team")
    with pytest.raises(ConfigError, match="hasty"):
        env.demonstrator(env.tasks("train", limit=1)[0], seed=0, quality="hast")
