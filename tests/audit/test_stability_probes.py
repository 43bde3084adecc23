"""Probes of stability, coverage and realism: each finds its flaw in all its planted kinds, and not in their twins."""

import pytest
from planted import FLAWS, planted

from askesis.audit import Ground, known_probes
from askesis.audit.worker import run_probe
from bench import probes
from bench.result import Options

PROBES = (
    "interface replay fresh-process rescoring interleaving faults soak seeds split-leakage tool-coverage state-novelty "
    "verifier-coverage near-duplicates diversity difficulty observations reward-variance reference-overlap limits"
).split()
LONG = "soak fresh-process rescoring interleaving faults verifier-coverage observations replay limits".split()
SERIOUS = ("low", "medium", "high")


def kinds(which):
    """All of them; of the `LONG` probes only the first is quick."""
    return [
        pytest.param(
            probe, kind, marks=[pytest.mark.full] if probe in LONG and kind != "a" else [], id=f"{probe}-{kind}"
        )
        for probe in PROBES
        for kind in getattr(planted(probe), which)
    ]


async def probed(probe, made, tasks=8):
    name = f"{FLAWS / probe.replace('-', '_')}.py:{made.__name__}"
    env = made()
    ground = Ground(env=env, count=tasks, name=name, reference=str(getattr(planted(probe), "REFERENCE", "")))
    try:
        return await run_probe(known_probes()[probe], ground, 25.0)
    finally:
        await env.close()


@pytest.mark.parametrize(("probe", "kind"), kinds("FLAWED"))
async def test_a_planted_flaw_is_found(probe, kind):
    found = await probed(probe, planted(probe).FLAWED[kind])
    assert found["verdict"] == "found", found
    assert found["severity"] in SERIOUS, found
    assert found["evidence"]


@pytest.mark.parametrize(("probe", "kind"), kinds("CLEAN"))
async def test_the_same_without_the_flaw_is_clean(probe, kind):
    found = await probed(probe, planted(probe).CLEAN[kind])
    assert found["verdict"] == "clean" or found["severity"] == "info", found


@pytest.mark.full
def test_no_probe_cries_wolf_over_what_is_clean():
    """All probes on the first clean twin of each: false alarms at most 2%."""
    found = probes.run(Options(values={"kinds": "a"}))
    assert found.ours["clean"] > 300
    assert found.ours["false_alarms"] <= 0.02, found.notes
    assert found.ours["recall"] >= 0.95, found.notes
