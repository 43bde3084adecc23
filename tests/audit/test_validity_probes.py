"""Probes of validity and exploitation: each finds the flaw where it was planted, and nothing in the clean twins."""

import pytest
from planted import planted

from askesis.audit import Ground, known_probes
from askesis.audit.worker import run_probe

ANSWERS = (
    "oracle null-battery near-miss random-policy constant-answer crossed-answer shotgun substring format empty-passes "
    "malformed impossible-twin search-answers search-actions judge evaluator-eval"
).split()
RUNNING = "process-capture channel-forgery harness-tamper leaks privilege".split()
TASKS = {"constant-answer": 12, "random-policy": 8, "search-answers": 8}  # of others, few are enough to see it

SLOW = ("search-actions", "random-policy", "search-answers")  # where nothing is found they look for long


def fixtures(names):
    for name in names:
        module = planted(name)
        for table in ("FLAWED", "CLEAN"):
            for variant, env in getattr(module, table).items():
                slow = name in (*SLOW, *RUNNING) and table == "CLEAN" and variant != "a"
                marks = [pytest.mark.full] if slow else []
                yield pytest.param(name, table == "FLAWED", env, id=f"{name} {table.lower()} {variant}", marks=marks)


@pytest.mark.filterwarnings("ignore:Possible nested set")  # of a fixture that takes any text for a pattern
@pytest.mark.parametrize(("name", "flawed", "env"), list(fixtures([*ANSWERS, *RUNNING])))
async def test_a_flaw_is_found_and_a_clean_twin_is_clean(name, flawed, env):
    made = env()
    answer = await run_probe(known_probes()[name], Ground(env=made, count=TASKS.get(name, 4)), seconds=120)
    await made.close()
    assert answer["verdict"] in (["found"] if flawed else ["clean", "skipped"]), answer
    if flawed:
        assert answer["severity"] != "info"
        assert answer["evidence"]
        assert answer["tasks"]
