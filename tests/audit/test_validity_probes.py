"""Probes of validity and exploitation: each finds the flaw where it was planted, and nothing in the clean twins."""

import contextlib
import itertools
from pathlib import Path

import pytest
from planted import planted

from askesis.audit import Ground, known_probes
from askesis.audit.worker import run_probe
from askesis.envs.flawed import MatchesSubstring

ANSWERS = (
    "oracle null-battery near-miss random-policy constant-answer crossed-answer shotgun substring format empty-passes "
    "malformed impossible-twin search-answers search-actions judge evaluator-eval "
    "unchecked-evidence"
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


@pytest.mark.parametrize("name", ["near-miss", "search-answers"])
async def test_another_right_answer_of_many_parts_is_no_near_miss(name):
    sorting = planted("near-miss").Register.__mro__[1]

    class Colours(sorting):
        """Numbers from 1 to 4, neighbours not alike: there are many such."""

        def draw(self, rng):
            found = [1]
            while len(found) < 9:
                found.append(rng.choice([one for one in (1, 2, 3, 4) if one != found[-1]]))
            return f"Nine numbers, as {rng.random()}", {"answer": " ".join(map(str, found))}

        def judge(self, said, data):
            parts = said.split()
            fits = len(parts) == 9 and set(parts) <= set("1234")
            return fits and all(one != other for one, other in itertools.pairwise(parts))

    found = await run_probe(known_probes()[name], Ground(env=Colours(), count=8), seconds=120)
    assert found["verdict"] == "found" and found["severity"] == "info", found
    assert "right as well" in found["note"]


@pytest.mark.parametrize("name", ["near-miss", "substring"])
async def test_an_answer_that_is_submitted_beside_other_texts_is_looked_at(name):
    """Of these the last decides where all is well, and where it is not, no one of them does by itself."""
    for fixed in (False, True):
        env = MatchesSubstring(fixed=fixed)
        found = await run_probe(known_probes()[name], Ground(env=env, count=4), seconds=120)
        assert found["verdict"] == ("clean" if fixed else "found"), found
        await env.close()


@pytest.mark.parametrize("kind", ["HostShell", "HostPython", "Calculator", "writes"])
async def test_files_of_this_machine_are_not_touched_where_tools_have_no_sandbox(kind, tmp_path, monkeypatch):
    files = {"test_mine.py": "assert True", "checks/result.json": "{}", "reward.txt": "0", "Makefile": "test:"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    module = planted("privilege")
    base = planted("leaks")

    class Writes(base.Sums):
        """With a tool that writes any file, of this machine."""

        def more(self, state):
            def write_file(path, content):
                with contextlib.suppress(OSError, ValueError):
                    Path(path).write_text(content, encoding="utf-8", errors="replace")
                return "written"

            spec = base.ToolSpec(name="write_file", description="", parameters=base.takes("string", "path", "content"))
            return [base.Called(spec, write_file)]

    monkeypatch.chdir(tmp_path)
    made = Writes() if kind == "writes" else getattr(module, kind)()
    ground = Ground(env=made, count=2)
    for name in ("harness-tamper", "channel-forgery", "process-capture"):
        await run_probe(known_probes()[name], ground, seconds=60)
    await made.close()
    assert {
        str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    } == files
