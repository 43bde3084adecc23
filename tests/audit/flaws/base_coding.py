"""A small coding environment: one function is to be written. What varies is how it is judged."""

import json
import random

from base_answers import Called, Reciter, takes

from askesis.sandbox import LazyPool
from askesis.types import Limits, Outcome, Reward, RunLimits, Task, ToolResult, ToolSpec

LIMITS = RunLimits(wall_s=3.0, cpu_s=3.0, memory=256 * 2**20, processes=16)
PLAIN_CALLS = """
import json, sys
calls, scope = json.load(sys.stdin), {}
exec(compile(open("solution.py").read(), "solution.py", "exec"), scope)
for arguments in calls:
    value = scope["f"](*arguments)
    print(json.dumps(value if type(value) is int else None))
"""
TESTS = """
from solution import f
for arguments, want in {cases}:
    assert f(*arguments) == want, (arguments, want)
print("all tests have passed")
"""


class Awaited(Called):
    async def __call__(self, args, session):
        known = self.spec.parameters["properties"]
        found = await self.function(**{name: value for name, value in args.items() if name in known})
        return found if isinstance(found, ToolResult) else ToolResult(text=str(found))


class Episode:
    def __init__(self, sandbox):
        self.sandbox, self.submitted = sandbox, False

    async def close(self):
        await self.sandbox.close()


class Coding:
    """shell: whether commands can be run. A subclass has `passes(trace, state)`; `fresh()` is another sandbox."""

    name, shell, module = "fixture", False, "solution.py"
    pool = None

    def __init__(self):
        self.pool = LazyPool(size=4, limits=LIMITS, programs=(PLAIN_CALLS,))

    def tasks(self, split, *, seed=0, limit=None):
        rng, found = random.Random(f"coding/{split}/{seed}"), {}
        while len(found) < (50 if limit is None else limit):
            factor, term = rng.randint(2, 99), rng.randint(1, 999)
            hidden = [[[a, b], factor * a + b - term] for a, b in (rng.sample(range(100), 2) for _ in range(4))]
            data = {"body": f"{factor} * a + b - {term}", "hidden": hidden[1:], "visible": hidden[:1]}
            prompt = f"Write f(a, b) in {self.module}: {factor} times a, and b, less {term}."
            task = Task(env=self.name, prompt=prompt, data=data, limits=Limits(max_turns=10), split=split)
            if (int(task.id, 16) % 4 == 0) == (split == "heldout"):
                found[task.id] = task
        return list(found.values())

    async def setup(self, task):
        sandbox = await self.pool.acquire()
        for path, content in self.files(task).items():
            await sandbox.write(path, content.encode())
        return Episode(sandbox)

    def files(self, task):
        return {self.module: "def f(a, b):\n    return None\n", "test_solution.py": self.tests(task)}

    def tests(self, task):
        return TESTS.format(cases=task.data["visible"])

    def tools(self, task, state):
        async def write_file(path, content):
            try:
                await state.sandbox.write(path, content.encode("utf-8", "replace"))
            except (OSError, ValueError) as error:
                return ToolResult(text=f"error: {error}", error=True)
            return "written"

        async def read_file(path):
            try:
                return (await state.sandbox.read(path)).decode("utf-8", "replace")[:3000]
            except (OSError, ValueError) as error:
                return ToolResult(text=f"error: {error}", error=True)

        async def run(command):
            ran = await state.sandbox.run(["/bin/sh", "-c", command.replace("\0", "")], limits=LIMITS)
            return (ran.stdout + ran.stderr)[:3000] or "[no output]"

        async def submit():
            state.submitted = True
            return ToolResult(text="submitted", end=Outcome(by="policy", reason="submitted"))

        texts = takes("string", "path", "content")
        tools = [
            Awaited(ToolSpec(name="write_file", description="Write a file.", parameters=texts), write_file),
            Awaited(ToolSpec(name="read_file", description="Read.", parameters=takes("string", "path")), read_file),
        ]
        if self.shell:
            tools.append(Awaited(ToolSpec(name="run", description="", parameters=takes("string", "command")), run))
        return [*tools, Awaited(ToolSpec(name="submit", description="Done.", parameters=takes("string")), submit)]

    async def verify(self, trace, state):
        passed = state.submitted and await self.passes(trace.task, state)
        await state.close()
        return [Reward(name="success", value=float(passed))]

    async def passes(self, task, state):
        """The clean way: the module alone, in a fresh sandbox, whose plain output is compared here."""
        cases = task.data["hidden"]
        ran = await self.ran(state, PLAIN_CALLS, json.dumps([arguments for arguments, _ in cases]))
        return ran.stdout.split() == [str(want) for _, want in cases]

    async def ran(self, state, program, stdin="", *, only=("solution.py",), how=None):
        """`program` in a fresh sandbox beside the agent's files."""
        fresh = await self.pool.acquire()
        try:
            for path in await state.sandbox.paths():
                if only is None or path in only:
                    await fresh.write(path, await state.sandbox.read(path))
            if how is None:
                return await fresh.python(program, stdin=stdin.encode(), limits=LIMITS)
            await fresh.write("check.py", program.encode())
            return await fresh.run(how, stdin=stdin.encode(), limits=LIMITS)
        finally:
            await fresh.close()

    def solution(self, task):
        return f"def f(a, b):\n    return {task.data['body']}\n"

    def oracle(self, task):
        return Reciter([("write_file", {"path": self.module, "content": self.solution(task)}), ("submit", {})])

    async def close(self):
        await self.pool.close()


class Shell(Coding):
    """With a shell."""

    shell = True
