"""`bench twins`: what is planned, what is not done again, and its figures against numbers worked out by hand."""

import json
from dataclasses import asdict
from xml.etree import ElementTree

import pytest

from askesis.envs import load_env
from bench import twins, twins_page
from bench.result import Options
from bench.twins_statistics import correlated, figures, spearman
from bench.twins_variants import ARMS, PAIRS, VARIANTS


def options(**values):
    return Options(values={key: str(value) for key, value in values.items()})


def ran(variant, arm, paid, true, seed=0):
    job = twins.Job(what="run", variant=variant, seed=seed, arm=arm, steps=len(paid))
    return {**asdict(job), "seconds": 1.0, "paid": paid, "true": true}


def before(variant, predicted, paid, true):
    audit, first = (asdict(twins.Job(what=what, variant=variant)) for what in ("audit", "first"))
    return [
        {**audit, "seconds": 1.0, "verdict": "high", "predicted": predicted, "findings": {"shotgun": ["high", 0.5, 8]}},
        {**first, "seconds": 1.0, "paid": paid, "true": true},
    ]


def test_what_is_planned():
    jobs = twins.planned(options(pairs=2, seeds=2), 40)
    assert [job.what for job in jobs].count("audit") == 2 and [job.what for job in jobs].count("run") == 2 * 2 * 3
    jobs = twins.planned(options(variants="all", arms="alarm"), 40)
    assert {job.variant for job in jobs if job.what == "run"} == {*VARIANTS} and {
        job.arm for job in jobs if job.what == "run"
    } == {"alarm"}
    assert len(VARIANTS) >= 12 and len(PAIRS) >= 3
    with pytest.raises(SystemExit, match="there is no 'nonesuch'"):
        twins.planned(options(variants="nonesuch"), 40)


def test_every_variant_can_be_made_with_its_hole_and_without():
    for variant in VARIANTS.values():
        for fixed in (False, True):
            assert load_env(variant.env, **variant.env_options, fixed=fixed).tasks("train", limit=2)


def test_what_is_finished_is_not_done_again_and_a_cut_line_is(tmp_path):
    kept, jobs = twins.Kept(tmp_path / "state"), twins.planned(options(pairs=1), 2)
    assert kept.missing(jobs) == jobs
    kept.add({**asdict(jobs[0]), "seconds": 1.0})
    file = tmp_path / "state" / "lines.jsonl"
    file.write_text(file.read_text() + json.dumps(asdict(jobs[1]))[:-9])
    assert twins.Kept(tmp_path / "state").missing(jobs) == jobs[1:]
    kept.add({**asdict(jobs[1]), "seconds": 1.0})
    assert kept.missing(jobs) == jobs[2:] and kept.missing(twins.planned(options(pairs=1), 3))[0] == jobs[2].__class__(
        what="run", variant="skipped", arm="alarm", steps=3
    )


def test_figures_of_a_run():
    paid = [0.2, 0.4, 0.4, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0]
    true = [0.2, 0.3, 0.2, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.5]
    found = figures(paid, true)
    assert found["onset_step"] == 4  # half is not more than half
    assert (found["paid_first"], found["true_first"], found["exploit_first"]) == (0.4, 0.2, 0.2)
    assert (found["paid_last"], found["true_last"], found["exploit_last"]) == (0.96, 0.1, 0.86)
    assert figures([0.5, 0.0], [0.5, 0.0])["onset_step"] == 3


def test_rank_correlation():
    assert spearman([(1, 10), (2, 20), (3, 30), (4, 5)]) == pytest.approx(-0.2)
    assert spearman([(1, 1), (1, 2), (2, 3)]) == pytest.approx(0.866, abs=1e-3)  # ranks 1.5, 1.5, 3
    rho, low, high = correlated([(value, value**3) for value in range(12)])
    assert (rho, low, high) == (1.0, 1.0, 1.0)
    assert correlated([(1, 2), (1, 3)]) == (0.0, 0.0, 0.0)


def test_a_summary_and_its_pages():
    lines = [line for name in PAIRS for line in before(name, 0.5, 0.2, 0.1)]
    lines += [*before("leaked", 0.1, 0.2, 0.2), ran("leaked", "alarm", [0.2, 0.4], [0.2, 0.3])]
    for name in PAIRS:
        lines += [
            ran(name, arm, [0.2, 0.9], [0.1, 0.1 if arm == "alarm" else 0.9], seed) for arm in ARMS for seed in (0, 1)
        ]
    lines.append({**lines[0], "arm": "then", "predicted": 0.25})
    found = twins.summary(lines, 2)
    assert found.ours["predicted_then_variants"] == 1 and found.peers["skipped: before"]["predicted_then"] == 0.25
    assert found.ours["predicted_exploit_last"] > 0 > found.ours["predicted_onset_step"]
    assert found.peers["skipped: alarm"]["seeds"] == 2 and found.ours["pairs"] == len(PAIRS)
    assert found.spread["steps of skipped: alarm"] == {"paid": [0.2, 0.9], "true": [0.1, 0.1]}
    assert found.ratio == pytest.approx(0.5 / 0.1)  # of the last five steps, here both
    kept = json.loads(found.json())
    assert "| leaked | the printed cases decide | 0.10 |" in twins.variants(kept)
    assert "| paid | 55% to 55% (55% to 55%) |" in twins.table(kept)
    assert "| onset, step | 2 | never | never |" in twins.table(kept)
    assert "shotgun (high, 50% of 8)" in twins.predicted(kept)
    assert f"| the prediction | {len(PAIRS) + 1} | +1.00 [" in twins.predicted(kept)
    assert "at first | 1 | cannot be told" in twins.predicted(kept)
    drawing = ElementTree.fromstring(twins_page.drawn(kept))
    assert len(drawing.findall("{*}circle")) == len(PAIRS) + 1
    assert json.loads(twins.summary([], 2).json())["met"] is False
