"""`repair_project` at its door: how tasks are made of a project, what is accepted as a repair, and what is not."""

import asyncio
import bdb
import collections
import datetime
import decimal
import fractions
import json
import operator
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from cheating import Scripted, call
from small_project import FILES, MAKING, TASKS, write_project
from test_repair import SUBMITTED, play, trace_of

from askesis.agents import agent_for
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.envs.repair.project import RepairProject, make_tasks, packages, read_project, verifying
from askesis.envs.repair.project.baseline import _answered
from askesis.envs.repair.project.guest import PLAIN
from askesis.envs.repair.project.mutations import KINDS, candidates
from askesis.envs.repair.project.packages import site_folder
from askesis.envs.repair.project.policies import edit_between
from askesis.envs.repair.project.reading import Project
from askesis.envs.repair.project.rules import broken, open_to_repair
from askesis.envs.repair.project.running import Bench
from askesis.envs.repair.project.splitting import apply_cuts
from askesis.envs.repair.project.taskfile import read_task_file
from askesis.rollout import EpisodeOptions, EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.sandbox import LazyPool
from askesis.sandbox.warden import longest
from askesis.types import ConfigError, EnvError, SandboxError, Thinking, VerifierError

SHELF = FILES["basket/shelf.py"]
HEAD = '    """The nearest number from low to high."""\n'


@pytest.fixture(scope="module")
def env():
    env = RepairProject(tasks=TASKS, workers=2)
    yield env
    asyncio.run(env.close())


def task_of(env, function, *, calls=True):
    """A task whose one fault is in a function."""
    tasks = [*env.tasks("train"), *env.tasks("heldout")]
    return next(
        task
        for task in tasks
        if [fault["function"] for fault in task.data["faults"]] == [function] and bool(task.data["calls"]) == calls
    )


async def rewarded(env, task, files):
    """What a tree gets in which `files` were written."""
    state = await env.setup(task)
    for path, text in files.items():
        await state.sandbox.write(path, text.encode())
    return (await env.verify(trace_of(task, SUBMITTED), state))[0]


# -- a project, read ---------------------------------------------------------------------------------------------------


async def test_only_packages_and_tests_come_along(tmp_path):
    """Everything else in a checkout may hold a copy of what is to be repaired."""
    write_project(tmp_path)
    for path in (".git/HEAD", "basket/counts.py.orig", "basket/__pycache__/x.pyc", "tests/data/rows.txt", "README.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "tests" / "link.py").symlink_to("/etc/passwd")
    found = read_project(tmp_path, include=["README.md"])
    assert sorted(set(found.files) - set(FILES)) == ["README.md", "tests/data/rows.txt"]
    assert not {"setup.py", "build/lib/basket/counts.py"} & set(found.files)
    assert found.sources == ("basket/__init__.py", "basket/counts.py", "basket/shelf.py")
    assert found.tests == ("tests/test_counts.py", "tests/test_shelf.py")
    assert found.module("basket/__init__.py") == "basket" and found.module("basket/shelf.py") == "basket.shelf"
    digest = found.digest
    (tmp_path / "basket" / "shelf.py").write_text(SHELF + "\n")
    assert read_project(tmp_path, include=["README.md"]).digest != digest


async def test_layouts_and_what_is_said_where_there_is_nothing(tmp_path):
    (tmp_path / "src" / "one").mkdir(parents=True)
    (tmp_path / "src" / "one" / "__init__.py").write_text("")
    with pytest.raises(ConfigError, match=r"no test files .* --tests"):
        read_project(tmp_path)
    (tmp_path / "test_one.py").write_text("def test_a(): pass")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "o-ne"\nversion = "1.2"\n')
    found = read_project(tmp_path)
    assert found.roots == ("src",) and found.module("src/one/__init__.py") == "one" and found.name == "o-ne"
    assert "src/o_ne-1.2.dist-info/METADATA" in found.files  # `importlib.metadata.version` finds it
    with pytest.raises(ConfigError, match="has no 'missing'"):
        read_project(tmp_path, packages=["missing"])
    with pytest.raises(ConfigError, match="no package found"):
        read_project(write_project(tmp_path / "two") / "tests")
    with pytest.raises(ConfigError, match="no project folder"):
        read_project(tmp_path / "nowhere")


# -- faults ------------------------------------------------------------------------------------------------------------


async def test_every_fault_is_python_in_one_function_and_nothing_else_changes():
    seen = set()
    for file in (fractions.__file__, textwrap.__file__, bdb.__file__):
        source = Path(file).read_text(encoding="utf-8")
        drawn = candidates(source, "x.py", most=20)
        for name, mutations in drawn.items():
            for fault in mutations:
                text = fault.applied(source)
                assert fault.function == name and text[: fault.start] == source[: fault.start]
                assert text[fault.start + len(fault.new) :] == source[fault.end :]
                assert source.count("\n", 0, fault.start) + 1 == fault.line
                seen.add(fault.kind)
        for mutations in list(drawn.values())[::9]:  # slow: each is a whole file
            assert broken(mutations[0].applied(source), source, source) == ""  # to mend it is always accepted
        assert drawn == candidates(source, "x.py", most=20) != candidates(source, "x.py", most=20, seed=1)
    assert seen == set(KINDS)
    assert candidates("x = (", "x.py") == {} == candidates("def f():\r\n  return 1\r\n", "x.py")


async def test_places_are_counted_in_characters():
    source = 'def f(a, b):\n    é = "ü"; return a + b  # + ß\n'
    (fault,) = candidates(source, "x.py", kinds=["operator"])["f"]
    assert fault.applied(source) == source.replace("a + b", "a - b")


async def test_edits_are_unique_and_lead_from_one_text_to_the_other():
    source = Path(fractions.__file__).read_text(encoding="utf-8")
    for mutations in candidates(source, "x.py", most=3).values():
        for fault in mutations:
            for before, after in ((fault.applied(source), source), (source, fault.applied(source))):
                edit = edit_between("x.py", before, after)
                assert before.count(edit["old"]) == 1
                assert before.replace(edit["old"], edit["new"]) == after


# -- making ------------------------------------------------------------------------------------------------------------


@pytest.mark.full
async def test_made_again_and_interrupted_the_tasks_are_the_same(tmp_path):
    """The tasks beside this file are what comes of the project; a run that was cut off goes on where it was."""
    project = read_project(write_project(tmp_path / "basket"), name="basket")
    kept = read_task_file(TASKS)
    assert project.digest == kept.project.digest
    out, said = tmp_path / "made.jsonl", []

    def cut(line):
        said.append(line)
        if line.startswith("6 faults"):
            raise KeyError("power")

    few = replace(MAKING, tasks=7, pairs=0.0, runs=2)
    with pytest.raises(KeyError, match="power"):
        await make_tasks(project, out, few, on_progress=cut)
    assert not out.exists() and (tmp_path / "made.jsonl.part").exists()
    with pytest.raises(ConfigError, match="interrupted run"):
        await make_tasks(project, out, replace(few, seed=4))
    said.clear()
    made = await make_tasks(project, out, few, on_progress=said.append)
    assert not any("run 1" in line for line in said)  # the suite is not run again
    assert [task["faults"] for task in made.tasks] == [task["faults"] for task in kept.tasks[: len(made.tasks)]]
    assert len(made.tasks) == 7 and read_task_file(out).tasks == made.tasks
    assert not (tmp_path / "made.jsonl.part").exists()


async def test_what_the_tasks_promise():
    kept = read_task_file(TASKS)
    named = {test for task in kept.tasks for test in (*task["visible"], *task["hidden"], *task["keep"])}
    assert not {test for test in named if "flickers" in test or "fails" in test}
    functions = {"train": set(), "heldout": set()}
    for task in kept.tasks:
        functions[task["split"]] |= {fault["function"] for fault in task["faults"]}
        assert task["visible"] and not set(task["visible"]) & set(task["hidden"])
        assert task["hidden"] or task["cuts"] or task["calls"]  # something is kept from the agent
        files = apply_cuts([tuple(cut) for cut in task["cuts"]], kept.project.files)
        for test in task["hidden"]:
            path, name = test.partition("[")[0].split("::")[0], test.partition("[")[0].split("::")[-1]
            assert f"def {name}(" not in files.get(path, "") or test in task["keep"]
        if task["level"] == 3:
            for fault in task["faults"]:  # each is told by something that is kept back, when it is there alone
                alone = next(one for one in kept.tasks if one["faults"] == [fault])
                hidden = set(task["hidden"]) & {*alone["visible"], *alone["hidden"]}
                assert hidden or any(one["telling"] for one in task["calls"] if one["function"] == fault["function"])
            assert len({(fault["path"], fault["function"]) for fault in task["faults"]}) == 2
    assert not functions["train"] & functions["heldout"]
    assert {task["level"] for task in kept.tasks} == {1, 2, 3}
    assert not {"attribute", "home"} & (functions["train"] | functions["heldout"])  # what reaches out is left alone
    assert len({fault["kind"] for task in kept.tasks for fault in task["faults"]}) >= 6


@pytest.mark.full
async def test_what_only_a_visible_test_asks_is_not_kept_back(tmp_path):
    """Who looks up what it wants to see would be paid."""
    (tmp_path / "lengths.py").write_text(
        'def seconds(text):\n    if text != "1h30m":\n        raise ValueError(text)\n    return 90 * 60\n'
    )
    test = 'from lengths import seconds\n\n\ndef test_seconds():\n    assert seconds("1h30m") == 5400\n'
    (tmp_path / "test_lengths.py").write_text(test)
    few = replace(MAKING, tasks=4, runs=2, pairs=0.0)
    with pytest.raises(ConfigError, match="nothing to hide"):
        await make_tasks(read_project(tmp_path), tmp_path / "one.jsonl", few)
    (tmp_path / "test_lengths.py").write_text(
        f"{test}\n\ndef test_minutes():\n    assert seconds('1h30m') // 60 == 90\n"
    )
    made = await make_tasks(read_project(tmp_path), tmp_path / "two.jsonl", few)
    assert made.tasks and all(len(task["hidden"]) == 1 for task in made.tasks)


async def test_a_project_whose_tests_do_not_run_is_told_why(tmp_path):
    write_project(tmp_path / "basket")
    for file in (tmp_path / "basket" / "tests").glob("*.py"):
        file.write_text("import numpy_of_the_future\n" + file.read_text())
    project = read_project(tmp_path / "basket")
    with pytest.raises(ConfigError, match=r"no test passes .*numpy_of_the_future.*--require"):
        await make_tasks(project, tmp_path / "out.jsonl", MAKING)
    with pytest.raises(ConfigError, match=r"numpy-of-the-future.*pip install"):
        site_folder(["numpy-of-the-future"])


async def test_the_project_is_none_of_the_packages_that_its_tests_need_under_any_name(monkeypatch):
    source = "src/iniconfig/__init__.py"
    own = Project(name="by-another-name", files={source: b""}, roots=("src",), sources=(source,), tests=())
    assert "pytest" in packages._closure([], own) and "iniconfig" in packages._closure([], None)
    assert not {"iniconfig", "by-another-name"} & set(packages._closure(["iniconfig", "by-another-name"], own))
    with tempfile.TemporaryDirectory(dir="/tmp") as unseen:
        monkeypatch.setenv("XDG_CACHE_HOME", unseen)
        with pytest.raises(ConfigError, match=r"set XDG_CACHE_HOME .*--site"):
            site_folder([], without=own)


CLOCK = """
import datetime, random, time, uuid
def today(days): return (datetime.date.today() + datetime.timedelta(days)).isoformat()
def hour(hours): return time.localtime().tm_hour + hours
def drawn(least): return random.randint(least, least + 10**9) > least
def named(size): return len(uuid.uuid4().hex) + size
def noon(days): return (datetime.datetime(2026, 1, 1, 12) + datetime.timedelta(days)).strftime("%d %H")
"""


async def test_what_a_clock_or_chance_decides_is_no_call_to_compare(tmp_path):
    """Two askings within a minute say the same, and the verdict falls on another day."""
    write_project(tmp_path / "basket")
    (tmp_path / "basket" / "basket" / "clock.py").write_text(CLOCK)
    project = read_project(tmp_path / "basket")
    sites = [str(site_folder([]))]
    sandboxes = LazyPool(size=1, limits=MAKING.limits, mounts=sites)
    bench = await Bench.open(project, sandboxes, MAKING.limits, sites=sites)
    names = ("today", "hour", "drawn", "named", "noon")
    call = [[["int", "3"]], []]
    calls = {f"basket/clock.py|{name}": {json.dumps(call): (call, {"a test"})} for name in names}
    assert set(await _answered(bench, MAKING, calls)) == {"basket/clock.py|noon"}
    await sandboxes.close()


# -- rules -------------------------------------------------------------------------------------------------------------

REPAIRS = {
    "another_way": "return max(low, min(high, value))",
    "a_loop": "for number in range(low, high + 1):\n    if number == value:\n        return number\nreturn low",
    "a_nested_function": "def least(a, b):\n    return a if a < b else b\nreturn least(value, high)",
    "a_comprehension": "return sorted([one for one in (low, value, high)])[1]",
    "text": 'return "{}".format(value).strip().upper()',
    "type_of_one": "return type(value)(low)",
    "an_exception": "try:\n    return value / low\nexcept ZeroDivisionError as error:\n    raise ValueError(error)",
}
REFUSED = {
    "import": "import os\nreturn 1",
    "from_import": "from os import _exit\nreturn 1",
    "class": "class E: pass\nreturn E()",
    "global": "global clamp\nclamp = 1",
    "dunder_name": "return __builtins__",
    "dunder_attribute": "return value.__class__",
    "private_attribute": "return value._secret",
    "unknown_attribute": "return value.f_back",
    "type_of_three": "return type('E', (), {})",
    "type_passed_on": "return map(type, value)",
    "type_with_star": "return type(*value)",
    "getattr": "return getattr(value, 'a')",
    "eval": "return eval('1')",
    "taken": "return [eval for eval in (1,)]",
    "taken_by_argument": "def g(open): pass\nreturn open('x')",
    "text_with_dunder": "return '{0.__class__}'.format(value)",
    "attribute_set": "value.room = 1",
    "attribute_of_a_class_set": "self = Shelf\nself.find = min",
    "attribute_of_an_argument_set": "def g(self):\n    self.room = 1\ng(Shelf)",
    "system_exit": "raise SystemExit",
    "bare_except": "try:\n    pass\nexcept:\n    pass",
    "class_pattern": "match value:\n    case int(real=x):\n        return x",
    "dunder_keyword": "return dict(__x__=1)",
    "unknown_name": "return pytest",
    "deep": f"return {'(' * 500}1{')' * 500}",
}


@pytest.mark.parametrize("name", REPAIRS)
async def test_a_repair_may_be_written_in_another_way(name):
    lines = "".join(f"    {line}\n" for line in REPAIRS[name].splitlines())
    assert broken(SHELF, SHELF.replace(HEAD, HEAD + lines), SHELF) == ""


@pytest.mark.parametrize("name", REFUSED)
async def test_what_reaches_for_the_interpreter_is_refused(name):
    lines = "".join(f"    {line}\n" for line in REFUSED[name].splitlines())
    said = broken(SHELF, SHELF.replace(HEAD, HEAD + lines), SHELF)
    assert said and (name == "deep" or "clamp" in said), said


@pytest.mark.parametrize(
    ("head", "refused"),
    [
        ("class A:\n    def f(self, n):\n", False),
        ("def f(self, n):\n", True),  # called with whatever a test has
        ("class A:\n    @staticmethod\n    def f(self, n):\n", True),
        ("class A:\n    @classmethod\n    def f(self, n):\n", True),
    ],
)
async def test_only_what_a_method_was_called_on_is_given_attributes(head, refused):
    before = f"def room(shelf):\n    return shelf.room\n\n\n{head}        return n\n"
    said = broken(before, before.replace("return n\n", "self.room = n\n        return n\n"), before)
    assert ("the attribute 'room' of another object is set" in said) == refused, said


async def test_outside_of_functions_nothing_changes():
    for old, new in (
        ("room=3", "room=4"),
        ("class Shelf:", "class Shelf(list):"),
        ("def clamp(", "print()\ndef clamp("),
        ("def clamp(", "@staticmethod\ndef clamp("),
        ("    def find", "    __eq__ = None\n\n    def find"),
        ("def clamp(", "def other():\n    pass\n\n\ndef clamp("),
    ):
        assert "outside the bodies" in broken(SHELF, SHELF.replace(old, new), SHELF)
    counts = FILES["basket/counts.py"]
    assert "only the project's own" in broken(counts, counts.replace("name.strip()", "name.lower()"), counts)
    own = "from basket.counts import mean\nimport basket.shelf\n\ndef f(a):\n    return mean(basket.shelf.f(a, 1, 2))\n"
    assert open_to_repair(own) == set() and open_to_repair(own, ["basket"]) == {"f"}
    assert broken(own, own.replace("1, 2", "2, 1"), own, ["basket"]) == ""
    assert open_to_repair(counts) == {"mean", "runs", "most_common", "windows", "folded"}


# -- the verdict -------------------------------------------------------------------------------------------------------


async def test_a_repair_is_judged_by_what_it_does(env):
    task = task_of(env, "clamp")
    other = (
        SHELF[: SHELF.index(HEAD)]
        + HEAD
        + "    low, high = sorted((low, high))\n    return max(low, min(high, value))\n"
    )
    assert (await rewarded(env, task, {"basket/shelf.py": other})).value == 1.0
    assert (await rewarded(env, task, {"basket/shelf.py": SHELF})).value == 1.0
    assert (await rewarded(env, task, {})).evidence == "no source file was changed"
    nearly = other.replace("max(low", "max(low + 1")
    assert "calls give something else" in (await rewarded(env, task, {"basket/shelf.py": nearly})).evidence
    broke_another = SHELF.replace("return -1", "return -2")
    assert "tests do not pass" in (await rewarded(env, task, {"basket/shelf.py": broke_another})).evidence
    assert (await rewarded(env, task, {"basket/shelf.py": SHELF, "tests/test_shelf.py": "assert 0"})).value == 1.0
    state = await env.setup(task)
    await state.sandbox.run(["rm", "basket/counts.py"])
    await state.sandbox.write("basket/shelf.py", SHELF.encode())
    assert (await env.verify(trace_of(task, SUBMITTED), state))[0].evidence == "basket/counts.py is gone"


PATCH = """
    import _pytest.reports, _pytest.runner
    _pytest.reports.TestReport.outcome = property(lambda report: "passed", lambda report, value: None)
    _pytest.runner.CallInfo.excinfo = property(lambda call: None, lambda call, value: None)
"""


async def test_what_calls_compare_holds_also_where_the_rules_do_not(env, monkeypatch):
    """The rules are a list of what is known. Where plain calls decide too, who gets past them still wins nothing."""

    async def lax(*_):
        return ""

    monkeypatch.setattr(verifying, "rules_broken", lax)
    task = task_of(env, "clamp")
    text = verifying.broken_files(await env._bench(task), task.data)["basket/shelf.py"]
    assert not (await rewarded(env, task, {"basket/shelf.py": text.replace(HEAD, HEAD + PATCH[1:])})).value
    task = task_of(env, "Shelf.put", calls=False)
    text = verifying.broken_files(await env._bench(task), task.data)["basket/shelf.py"]
    line = '        """Put a thing there; the oldest leaves where there is no room."""\n'
    patched = text.replace(line, line + PATCH[1:].replace("    ", "        "))
    assert (await rewarded(env, task, {"basket/shelf.py": patched})).value  # and this is what they are there for


async def test_plain_values_are_compared_by_type_and_floats_up_to_rounding():
    one = ["list", [["float", "0.1"], ["int", "1"], ["constant", True]]]
    assert verifying.same(json.loads(json.dumps(one)), one)
    assert verifying.same(["float", "0.30000000000000004"], ["float", "0.3"]) and verifying.same(
        *2 * [["float", "nan"]]
    )
    for other in (["float", "0.31"], ["int", "0.3"], ["float", 0.3], ["float", "x"], ["float"], "0.3", None, []):
        assert not verifying.same(other, ["float", "0.3"])
    assert not verifying.same(["constant", 1], ["constant", True]) and not verifying.same(["int", "1"], ["int", "01"])


async def test_plain_values_come_back_as_they_went():
    scope = {}
    exec(PLAIN, scope)
    plain, real = scope["plain"], scope["real"]
    day = datetime.datetime(2026, 2, 3, 4, 5, 6, 7)
    values = [
        None,
        True,
        -3,
        10**90,
        1.5,
        2j,
        "é",
        b"\x00",
        [1, (2, {3: {4}})],
        frozenset("a"),
        range(1, 9, 2),
        slice(1, 2),
    ]
    values += [
        day,
        day.date(),
        datetime.timedelta(1, 2, 3),
        decimal.Decimal("1.20"),
        fractions.Fraction(1, 3),
        len,
        min,
    ]
    values += [collections.deque([1]), operator.add, str.upper, collections.Counter]
    for value in values:
        again = real(json.loads(json.dumps(plain(value))))
        assert again == value and type(again) is type(value)
    given = iter([1, 2, 3])
    next(given)
    assert list(real(plain(given))) == [2, 3] == list(given)  # looked at, and not run
    assert plain((n * n for n in range(3)), True) == ["iterator", [["int", "0"], ["int", "1"], ["int", "4"]]]
    assert plain({2: 1, 1: 2}, True) == plain({1: 2, 2: 1}, True)
    for value in (
        object(),
        lambda: 0,
        (n for n in ()),
        [object()],
        "\ud800",
        "x" * 5000,
        [[[[[[[[[1]]]]]]]]],
        list(range(99)),
    ):
        assert plain(value) is None


async def test_a_sandbox_that_fails_is_no_verdict(env, monkeypatch):
    task = task_of(env, "clamp")
    state = await env.setup(task)
    await state.sandbox.write("basket/shelf.py", SHELF.encode())

    async def fail(*_, **__):
        raise SandboxError("no more workers")

    monkeypatch.setattr(type(state.bench), "jobs", fail)
    with pytest.raises(VerifierError, match="no more workers"):
        await env.verify(trace_of(task, SUBMITTED), state)


async def test_rules_that_cannot_be_tried_on_the_projects_own_text_are_no_verdict(env, monkeypatch):
    task = task_of(env, "clamp")
    bench = await env._bench(task)
    before = {path: bench.project.source(path) for path in bench.project.sources}
    changed = {"basket/shelf.py": SHELF + "#\n", "basket/counts.py": FILES["basket/counts.py"] + "#\n"}
    assert await verifying.rules_broken(bench, before, changed) == ""
    dies = "import json, os, sys\nasked = json.load(sys.stdin)\nos._exit(9 if {} else print([''], flush=True) or 0)\n"
    dies = dies.replace("['']", "json.dumps([''])")
    monkeypatch.setattr(verifying, "RULES", dies.format("asked[0][1].endswith('#\\n') and 'clamp' in asked[0][1]"))
    assert (await verifying.rules_broken(bench, before, changed)).startswith("basket/shelf.py cannot be read")
    monkeypatch.setattr(verifying, "RULES", dies.format("True"))
    with pytest.raises(VerifierError, match="project's own text"):
        await verifying.rules_broken(bench, before, changed)


# -- episodes ----------------------------------------------------------------------------------------------------------


async def test_oracle_repairs_and_poor_habits_do_not_always(env):
    tasks = env.tasks("heldout", limit=4)
    assert [(await play(env, task, env.oracle(task)))["success"] for task in tasks] == [1.0] * 4
    assert {task.data["level"] for task in env.tasks("train")} == {1, 2, 3}
    task = next(task for task in env.tasks("train") if task.data["level"] == 3)
    assert (await play(env, task, env.demonstrator(task, seed=0, quality="good")))["success"] == 1.0
    lengths = {len(list(env.demonstrator(task, seed=seed)._steps)) for seed in range(30)}
    assert len(lengths) > 3
    with pytest.raises(ConfigError, match="quality"):
        env.demonstrator(task, seed=0, quality="goood")


async def test_what_the_tests_say_is_what_pytest_says(env):
    task = task_of(env, "clamp")
    state = await env.setup(task)
    run = {tool.spec.name: tool for tool in env.tools(task, state)}["run_tests"]
    said = (await run({}, None)).text
    assert (
        said.endswith("1 failed") and f"FAILED {task.data['visible'][0]}" in said
    )  # and no time, which always differs
    assert "test_find" not in said and "passed" in (await run({"tests": "tests/test_counts.py::test_mean"}, None)).text
    assert (await run({"tests": "--version"}, None)).error
    assert "not found" in (await run({"tests": "tests/test_shelf.py::test_nothing"}, None)).text
    await state.sandbox.write("basket/shelf.py", (SHELF + "\nimport os\n").encode())
    assert "[not accepted like this: basket/shelf.py: something outside" in (await run({}, None)).text
    await state.sandbox.write("basket/shelf.py", b"while True: pass\n")
    slow = RepairProject(tasks=TASKS, tests_s=1.0)
    run = {tool.spec.name: tool for tool in slow.tools(task, state)}["run_tests"]
    assert "[stopped: " in (await run({}, None)).text
    await state.close()
    await slow.close()


async def test_options_and_files_that_do_not_fit(tmp_path, env):
    with pytest.raises(ConfigError, match="askesis envs make-repair"):
        load_env("repair_project")
    with pytest.raises(ConfigError, match=r"no task file .*make-repair"):
        load_env("repair_project", tasks=str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="levels"):
        load_env("repair_project", tasks=str(TASKS), levels=[4])
    with pytest.raises(ConfigError, match="did you mean 'operator'"):
        load_env("repair_project", tasks=str(TASKS), kinds=["operators"])
    head, *rest = TASKS.read_text().splitlines()
    changed = json.loads(head)
    changed["files"]["basket/shelf.py"] += "\n"
    for name, first, match in (
        ("changed", json.dumps(changed), "not what its hash"),
        ("other", json.dumps({**json.loads(head), "python": "3.9"}), "Python 3.9"),
        ("text", "hello", "no task file of repair_project"),
        ("format", json.dumps({"format": "x"}), "format is 'x'"),
    ):
        (tmp_path / name).write_text("\n".join([first, *rest]))
        with pytest.raises(ConfigError, match=match):
            load_env("repair_project", tasks=str(tmp_path / name))
    task = replace(env.tasks("train")[0], data={"digest": "0"}, id="")
    with pytest.raises(EnvError, match="project state 0"):
        await env.setup(task)


async def test_tasks_follow_from_split_seed_and_options(env):
    ids = [task.id for task in env.tasks("train", seed=1)]
    assert ids == [task.id for task in env.tasks("train", seed=1)] != [task.id for task in env.tasks("train", seed=2)]
    assert sorted(ids) == sorted(task.id for task in env.tasks("train", seed=2))
    assert not set(ids) & {task.id for task in env.tasks("heldout")}
    assert len(env.tasks("heldout", limit=3)) == 3
    only = RepairProject(tasks=[str(TASKS)], levels=[2], kinds=["comparison", "negation"])
    kinds = {fault["kind"] for task in only.tasks("train") for fault in task.data["faults"]}
    assert kinds and kinds <= {"comparison", "negation"}


@pytest.mark.full
def test_make_repair_on_the_command_line(tmp_path):
    write_project(tmp_path / "basket")
    command = [sys.executable, "-m", "askesis", "envs", "make-repair", str(tmp_path / "basket")]
    options = [
        "-o",
        str(tmp_path / "t.jsonl.gz"),
        "--tasks",
        "1",
        "--pairs",
        "0",
        "--kind",
        "comparison",
        "--tests",
        "tests/test_shelf.py",
    ]
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["tasks"] == 1 and made["kinds"] == {"comparison": 1} and "1 test files" in done.stderr
    assert len(read_task_file(tmp_path / "t.jsonl.gz").tasks) == 1
    wrong = subprocess.run([*command, "-o", "x", "--kind", "comparisons"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "did you mean 'comparison'" in wrong.stderr


async def test_every_limit_of_the_sandbox_comes_before_those_of_the_episode(env):
    """Where it is the other way round, who submits something without an end is never judged, and pays nothing."""
    slow = RepairProject(tasks=TASKS, tests_s=200.0)
    for one, tests_s in ((env, 60.0), (slow, 200.0)):
        bench = await one._bench(one.tasks("train")[0])
        for task in (*one.tasks("train"), *one.tasks("heldout")):
            own = verifying.CALLS_S * len(task.data["calls"]) + task.data["seconds"]
            assert bench.limits.wall_s > own and bench.limits.cpu_s > own
            assert task.limits.tool_s > longest(tests_s) + longest(verifying.RULES_LIMITS.wall_s)
        assert one.verify_s > longest(bench.limits.wall_s) + longest(verifying.RULES_LIMITS.wall_s)
    await slow.close()


@pytest.mark.full
async def test_two_repairs_without_an_end_are_a_verdict(env, monkeypatch):
    """Also where a verdict of this environment takes longer than one may elsewhere."""
    monkeypatch.setattr(verifying, "CALLS_S", 2.0)
    task = next(task for task in env.tasks("heldout") if len(task.data["calls"]) == 2)
    text = FILES["basket/counts.py"]
    for head in ("or None.", "at a time."):
        line = next(line for line in text.splitlines() if line.endswith(f'{head}"""'))
        text = text.replace(line, f"{line}\n    while True:\n        pass")
    calls = [call("write", path="basket/counts.py", content=text), call("submit")]
    renderer = Qwen3Renderer(train_bpe(["loop"], 300))
    speakers = PolicySpeakers(lambda spec: Scripted(lambda task: calls, task), renderer)
    options = EpisodeOptions(verify_s=1.0)
    stage = Stage(speakers=speakers, renderer=renderer, env=env, agent=agent_for(env), options=options)
    whole = replace(task, limits=replace(task.limits, max_turn_tokens=10**6), id=task.id)
    trace = await run_episode(EpisodeSpec(task=whole, thinking=Thinking(enabled=False), group="g", seed=0), stage)
    assert trace.outcome.learnable and trace.reward == 0.0, trace.outcome
    assert "late" in trace.rewards[0].evidence


@pytest.mark.full
async def test_the_oracle_repairs_every_task_and_nothing_is_paid_for_nothing(env):
    for split in ("train", "heldout"):
        for task in env.tasks(split):
            assert (await play(env, task, env.oracle(task)))["success"] == 1.0, task.data["faults"]
            assert (await rewarded(env, task, {})).value == 0.0


@pytest.mark.full
async def test_a_package_of_the_index_with_the_tests_that_it_brings(tmp_path):
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "inflection"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, "inflection==0.5.1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip()[-200:]}")
    with tarfile.open(tmp_path / "inflection-0.5.1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    project = read_project(tmp_path / "inflection-0.5.1")
    out = tmp_path / "inflection.jsonl"
    made = await make_tasks(project, out, replace(MAKING, tasks=12, heldout=0.5))
    assert len(made.tasks) == 12 and made.made["baseline"] == {"tests": 455, "left_out": 0}
    env = RepairProject(tasks=out, workers=2)
    for split in ("train", "heldout"):
        for task in env.tasks(split):
            assert (await play(env, task, env.oracle(task)))["success"] == 1.0, task.data["faults"]
    await env.close()
