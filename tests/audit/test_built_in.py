"""The built-in environments, audited: nothing of high severity. Some probes and tasks here; all of them in `full`."""

import pytest
from planted import FLAWS

from askesis.audit import audit
from askesis.envs.registry import BUILT_IN

PROJECT = FLAWS.parents[1] / "envs" / "small_project.jsonl"  # tasks out of a project with tests of its own
OPTIONS = {"repair_project": {"tasks": str(PROJECT)}, "reasoning": {"python": True}}
FEW = (
    "oracle null-battery crossed-answer near-miss substring empty-passes evaluator-eval leaks process-capture "
    "channel-forgery harness-tamper replay"
).split()
FEWER = {  # episodes with a browser, and such in which a project's tests are run
    "web": ["oracle", "null-battery"],
    "repair_project": ["oracle", "null-battery", "channel-forgery", "harness-tamper"],
}
SMALL = {"web": {"templates": ["contact"], "levels": [1]}}


def grave(found):
    return {line.probe: line.evidence for line in found.findings if line.severity == "high"}


@pytest.mark.parametrize("name", BUILT_IN)
async def test_what_is_built_in_has_no_grave_flaw(name):
    options = {**OPTIONS.get(name, {}), **SMALL.get(name, {})}
    found = await audit(name, options=options, names=FEWER.get(name, FEW), tasks=2, seconds=240)
    assert grave(found) == {}
    verdicts = {line.probe: (line.verdict, line.note) for line in found.lines}
    assert verdicts["oracle"][0] == verdicts["null-battery"][0] == "clean", verdicts


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", BUILT_IN)
async def test_no_probe_finds_a_grave_flaw_in_what_is_built_in(name):
    found = await audit(name, options=OPTIONS.get(name), seconds=900)
    assert grave(found) == {}
    told = [line for line in found.lines if line.verdict in ("clean", "found")]
    assert len(told) >= 20, [(line.probe, line.verdict, line.note) for line in found.lines]
