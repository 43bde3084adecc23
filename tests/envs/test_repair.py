"""`repair` at its door: tasks, tools and a verifier that cannot be talked round."""

import ast
import asyncio
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.envs import load_env
from askesis.envs.repair import Repair, programs
from askesis.types import (
    ConfigError,
    EnvError,
    Message,
    Outcome,
    SandboxError,
    Task,
    Thinking,
    Timing,
    Trace,
    tool_result,
    user,
)


def trace_of(task: Task, outcome: Outcome) -> Trace:
    return Trace(id="t", task=task, harness="test@1", nodes=(), rewards=(), outcome=outcome, timing=Timing())


SUBMITTED = Outcome(by="policy", reason="submitted")


async def play(env: Repair, task: Task, policy) -> dict[str, float]:
    """One episode by hand: what an agent's loop does, without tokens."""
    state = await env.setup(task)
    tools = {tool.spec.name: tool for tool in env.tools(task, state)}
    messages: list[Message] = [user(task.prompt)]
    outcome = Outcome(by="limit", reason="max_turns")
    for _ in range(task.limits.max_turns):
        message = policy.act(messages, Thinking())
        messages.append(message)
        call = message.tool_calls[0]
        result = await tools[call.name](call.arguments, None)
        if result.end is not None:
            outcome = result.end
            break
        messages.append(tool_result(result.text))
    rewards = await env.verify(trace_of(task, outcome), state)
    return {reward.name: reward.value for reward in rewards}


@pytest.fixture
async def env():
    env = Repair()
    yield env
    await env.close()


@given(seed=st.integers(0, 10**6), faults=st.integers(1, 3))
def test_every_drawn_module_is_real_python_whose_faults_show(seed, faults):
    module = programs.draw(random.Random(seed), functions=3, faults=faults, kinds=programs.FAULTS)
    ast.parse(programs.source(module))
    broken = [function for function in module if function.fault]
    assert len(broken) == faults
    for function in module:
        assert (function.written != function.reference) == bool(function.fault)
        assert programs.shows(function) or not function.fault
        if function.fault and function.fault != "name":
            # the cure is one of the edits that a guesser may try: the baseline is not crippled
            assert function.reference in programs.edits("", function.params, function.written)


@given(seed=st.integers(0, 10**6))
def test_the_visible_tests_tell_the_cure_from_its_rivals(seed):
    module = programs.draw(
        random.Random(seed), functions=2, faults=1, kinds=[k for k in programs.FAULTS if k != "name"]
    )
    for function in module:
        want = [programs.evaluate(function.reference, function.params, case) for case in function.visible]
        for _, rival in programs._variants(function.shape, function.reference, function.params):
            assert want != [programs.evaluate(rival, function.params, case) for case in function.visible]


def test_splits_share_no_task_and_are_reproducible():
    env = Repair()
    train = {task.id for seed in range(5) for task in env.tasks("train", seed=seed, limit=400)}
    heldout = {task.id for seed in range(5) for task in env.tasks("heldout", seed=seed, limit=400)}
    assert not train & heldout
    assert len(train) > 1900 and len(heldout) > 1900
    again = Repair().tasks("heldout", seed=3, limit=50)
    assert [task.id for task in again] == [task.id for task in env.tasks("heldout", seed=3, limit=50)]
    assert {kind for task in again for kind in task.data["faults"]} == set(programs.FAULTS)


async def test_oracle_repairs_everything_and_the_guesser_next_to_nothing(env):
    tasks = env.tasks("heldout", seed=1, limit=40)
    solved = [(await play(env, task, env.oracle(task)))["success"] for task in tasks]
    guessed = [(await play(env, task, env.guesser(task, seed=0, edits=2)))["success"] for task in tasks]
    assert np.mean(solved) == 1.0
    assert np.mean(guessed) <= 0.1


async def test_tests_print_what_cpython_prints(env):
    task = env.tasks("train", seed=0, limit=1)[0]
    state = await env.setup(task)
    tools = {tool.spec.name: tool for tool in env.tools(task, state)}
    name = task.data["visible"][0]["name"]
    params = task.data["source"].splitlines()[0]

    async def after(line: str) -> str:
        assert (await tools["replace"]({"line": 2, "text": line}, None)).text == "done"
        return (await tools["run_tests"]({}, None)).text

    first = params.partition("(")[2].partition(")")[0].split(", ")[0]
    said = await after(f"    return {first}s")
    wanted = f"NameError: name '{first}s' is not defined. Did you mean: '{first}'?"
    assert said == f"FAIL {name}\n2 return {first}s\n{wanted}"
    said = (await after("    return 'x'")).splitlines()
    assert said[:2] == [f"FAIL {name}", "2 return 'x'"]
    assert said[2].startswith(f"{name}(") and " is x, want " in said[2]
    assert "ZeroDivisionError: " in await after("    return 1 // 0")
    assert "SyntaxError" in await after("    return (")
    assert "wall limit" in await after("    while True: pass") or "cpu limit" in await after("    while True: pass")
    assert len(await after("    return '9' * 10 ** 6")) < 600
    assert (await tools["replace"]({"line": 99, "text": "x"}, None)).error
    assert (await tools["view"]({}, None)).text.startswith("1 def ")
    await state.close()


CHEATS = {
    "exit": "import os; os._exit(0)",
    "sys_exit": "raise SystemExit(0)",
    "print_answers": '[print(\'["int", "1"]\') for _ in range(50)]',
    "always_equal": "type('E', (int,), {'__eq__': lambda s, o: True})(0)",
    "patch_json": "__import__('json').__dict__.update(dumps=lambda v: '[\"int\", \"1\"]')",
    "fork_and_write": "__import__('os').fork()",
    "read_frames": "__import__('sys')._getframe(1).f_globals",
}


@pytest.mark.parametrize("cheat", CHEATS)
async def test_what_captures_a_verifier_elsewhere_is_not_paid_here(env, cheat):
    task = env.tasks("train", seed=2, limit=1)[0]
    state = await env.setup(task)
    lines = task.data["source"].splitlines()
    lines[1] = (
        f"    return {CHEATS[cheat]}" if not CHEATS[cheat].startswith(("import", "raise")) else f"    {CHEATS[cheat]}"
    )
    await state.sandbox.write("solution.py", ("\n".join(lines) + "\n").encode())
    rewards = {r.name: r.value for r in await env.verify(trace_of(task, SUBMITTED), state)}
    assert rewards["success"] == 0.0


TAKEN_AWAY = {
    "removed": "os.remove('solution.py')",
    "folder": "os.remove('solution.py'), os.mkdir('solution.py')",
    "link": "os.remove('solution.py'), os.symlink('/etc/passwd', 'solution.py')",
    "bytes": "open('solution.py', 'wb').write(b'\\xff')",
}


@pytest.mark.parametrize("how", TAKEN_AWAY)
async def test_who_breaks_the_file_is_told_so_and_not_paid(env, how):
    """Else a policy could turn a lost episode into one that the machinery seems to have spoilt."""
    task = env.tasks("train", seed=2, limit=1)[0]
    state = await env.setup(task)
    tools = {tool.spec.name: tool for tool in env.tools(task, state)}
    await tools["replace"]({"line": 2, "text": f"    import os; {TAKEN_AWAY[how]}"}, None)
    await tools["run_tests"]({}, None)
    for name, args in (("view", {}), ("replace", {"line": 1, "text": "x"})):
        assert (await tools[name](args, None)).error or how == "bytes"
    assert (await env.verify(trace_of(task, SUBMITTED), state))[0].value == 0.0


async def test_the_first_edit_is_judged_by_what_it_changed(env):
    task = next(t for t in env.tasks("train", seed=0, limit=50) if len(t.data["faults"]) == 1)
    broken, right = task.data["source"].splitlines(), task.data["repaired"].splitlines()
    fault = next(i for i, line in enumerate(broken) if line != right[i])
    other = next(i for i in range(1, len(broken), 2) if i != fault)
    wrong, cure = (other, "    return 0"), (fault, right[fault])
    for before, after, cured in ((wrong, cure, 1.0), (cure, wrong, 0.0), (cure, (other, right[other] + " "), 0.0)):
        state = await env.setup(task)
        tools = {tool.spec.name: tool for tool in env.tools(task, state)}
        await tools["replace"]({"line": before[0] + 1, "text": before[1]}, None)
        await tools["run_tests"]({}, None)
        await tools["replace"]({"line": after[0] + 1, "text": after[1]}, None)
        rewards = {r.name: r.value for r in await env.verify(trace_of(task, SUBMITTED), state)}
        assert rewards["first_edit"] == cured


def test_an_environment_serves_one_event_loop_after_the_other():
    env = Repair(workers=1)
    task = env.tasks("train", seed=0, limit=1)[0]
    for _ in range(2):
        assert asyncio.run(play(env, task, env.oracle(task)))["success"] == 1.0
    asyncio.run(env.close())


async def test_only_a_submission_is_paid_and_the_sandbox_is_gone_before_the_verdict(env):
    task = env.tasks("train", seed=3, limit=1)[0]
    for outcome, paid in ((SUBMITTED, 1.0), (Outcome(by="limit", reason="max_turns"), 0.0)):
        state = await env.setup(task)
        await state.sandbox.write("solution.py", task.data["repaired"].encode())
        rewards = {r.name: r.value for r in await env.verify(trace_of(task, outcome), state)}
        assert rewards["success"] == paid
        assert state.closed


async def test_a_set_up_that_fails_leaves_no_sandbox_behind(env, monkeypatch):
    made, make = [], env._sandboxes.acquire

    async def remembered():
        made.append(await make())
        return made[-1]

    monkeypatch.setattr(env._sandboxes, "acquire", remembered)
    task = env.tasks("train", seed=0, limit=1)[0]
    too_large = Task(env="repair", prompt="x", data=dict(task.data) | {"source": "#" * 2**26})
    with pytest.raises(OSError, match="holds 4194304 bytes"):
        await env.setup(too_large)
    with pytest.raises(SandboxError, match="closed"):
        await made[0].read("solution.py")


async def test_bad_input_is_named(env):
    with pytest.raises(ConfigError, match="did you mean 'operator'"):
        Repair(kinds=["operater"])
    with pytest.raises(ConfigError, match="did you mean 'repair'"):
        load_env("repare")
    with pytest.raises(ConfigError, match="no environment file"):
        load_env("nowhere.py:Env")
    with pytest.raises(EnvError, match="made by"):
        await env.setup(Task(env="repair", prompt="x", data={}))
