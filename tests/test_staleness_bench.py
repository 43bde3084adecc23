"""`bench staleness`: what is planned, what is not done again, a run of it, and its figures worked out by hand."""

import json
from dataclasses import asdict, replace

import pytest

from bench import staleness
from bench.result import Options

JOB = staleness.Job(kind="lag", stale=0, arm="none", seed=0, steps=2, recipe="research", per_step=1, lr=1e-3)


def options(**values):
    return Options(values={key: str(value) for key, value in values.items()})


def ran(success, **changes):
    return {**asdict(replace(JOB, **changes)), "seconds": 1.0, "success": success, "course": [{"ess": 0.5}, {}]}


def test_what_is_planned():
    jobs = staleness.planned(options(seeds=2, stale="4,8", arms="none,tis,clip@gspo", kinds="lag,ahead"))
    assert len(jobs) == len(set(jobs)) == 2 * (2 + 2 * 2 * 3)  # a synchronous run for each loss
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert {job.arm for job in jobs if job.stale == 0} == {"none", "none@gspo"}
    assert len(staleness.planned(options(seeds=1, lr="1e-3,1e-4"))) == 2 * (1 + 2 * 2)
    for wrong in ({"arms": "tiss"}, {"arms": "none@gspoo"}, {"kinds": "behind"}):
        with pytest.raises(SystemExit, match="known are"):
            staleness.planned(options(**wrong))


def test_arms_are_settings_of_a_recipe():
    assert staleness.settings("tis+band@gspo") == {
        "train.algorithm": "gspo",
        "train.corrections": [{"name": "tis"}, {"name": "band"}],
        "train.proximal": "recompute",
    }
    assert staleness.settings("clip")["train.proximal"] == "sampler"


def test_what_is_finished_is_not_done_again(tmp_path):
    kept = staleness.Kept(tmp_path)
    other = replace(JOB, stale=8, arm="tis")
    kept.add(ran(0.5))
    (tmp_path / "lines.jsonl").open("a").write('{"kind": "lag", "st')  # cut by an interruption
    assert kept.missing([JOB, other]) == [other]
    kept.add(ran(0.7, stale=8, arm="tis"))
    assert kept.missing([JOB, other]) == []


def test_shares_by_hand():
    lines = [ran(0.8, seed=0), ran(1.0, seed=1), ran(0.9, seed=2)]
    lines += [ran(0.4, stale=8, arm="tis", seed=0), ran(1.0, stale=8, arm="tis", seed=1)]
    lines += [ran(0.1, stale=8, arm="tis", seed=0, lr=1e-2), ran(0.1, seed=0, lr=1e-2)]
    result = staleness.summary(lines, lr=1e-3)
    found = result.peers["lag 8: tis, lr 0.001"]
    assert found["share"] == pytest.approx((0.4 + 1.0) / (0.8 + 1.0), abs=1e-4)
    assert (found["seeds"], found["success"], found["ess"]) == (2, 0.7, 0.5)
    assert result.spread["lag 8: tis, lr 0.001"]["share"] == (0.5, 1.0)
    assert result.peers["lag 8: tis, lr 0.01"]["share"] == 1.0
    assert result.ratio == pytest.approx(0.778) and not result.met
    rows = staleness.table(json.loads(result.json())).splitlines()
    assert len(rows) == 2 + len(result.peers) and "8 versions old" in rows[-1]


@pytest.mark.full
def test_a_run_is_as_stale_as_it_says_and_the_same_each_time():
    job = replace(JOB, stale=2, arm="tis", steps=4, per_step=3)
    one, other = staleness.work(job, 1), staleness.work(job, 1)
    assert one == other
    for step, told in enumerate(one["course"]):
        if "gap_mean" in told:
            assert told.get("staleness", 0) == min(step, 2)
