"""One checker on planted environments, for `bench checkers`: `python -m bench.checkers_peer NAME SECONDS`.

Each line on stdin names a fixture; each is answered with a line. A checker sees what it expects: a function from a
completion and a reference to a reward, which plays the fixture's own episode with the completion in the place of the
text that decides it. gradecheck also gets the tree of files that an agent is given, and a command that grades one.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from askesis.audit.ground import Ground, Recited
from askesis.audit.probe import Inconclusive, Skipped, known_probes
from askesis.audit.probes.impossible_twin import changed, leaves
from askesis.audit.submission import Submission, submissions
from askesis.types import Task
from bench import probes

TASKS = {"falsepass": (6, 2)}  # of a fixture that a checker sees: where a text is judged, and where a program is run
USUAL, OURS = (8, 4), 8
LIMIT_S = 240  # of a checker on one fixture
SEARCH = 40  # calls of falsepass's search in each of its directions
GATE = ["ceiling>0.1", "errors>0"]  # falsepass's own example for CI
MOST = 20_000  # characters of a completion: longer ones are cut, as a turn's limit would


class NotThere(BaseException):
    """The checker cannot be run on this fixture; its text says why. No checker may take it for a failing reward."""


class Scorer:
    """A fixture as a function of text."""

    def __init__(self, env: Any, count: int) -> None:
        self.ground = Ground(env=env, count=count)
        self.loop = asyncio.new_event_loop()
        try:
            found = self.loop.run_until_complete(submissions(self.ground))
        except (Skipped, Inconclusive) as why:
            raise NotThere(str(why)) from why
        self.of: dict[str, Submission] = {one.task.id: one for one in found}

    async def score(self, task: str, completion: str, reference: str) -> float:
        """What `completion` is paid on a task, were `reference` its right answer."""
        one, completion = self.of[task], completion[:MOST]
        twin = one.task if reference == one.text else self.with_reference(one, reference)
        if twin is None:
            raise NotThere("its tasks do not hold the answer")
        trace = await self.ground.play(twin, lambda task, specs: Recited(one.saying(completion)))
        return float(trace.success)

    def with_reference(self, one: Submission, reference: str) -> Task | None:
        """The task with another right answer; None where its data do not hold the one that it has."""
        news: dict[Any, Any] = {}
        for path, value in leaves(one.task.data):
            if str(value) == one.text:
                with contextlib.suppress(ValueError):
                    news[path] = type(value)(reference)
        return changed(one.task, news) if news else None

    def now(self, task: str, completion: str, reference: str) -> float:
        """`score`, for callers that do not wait."""
        return self.loop.run_until_complete(self.score(task, completion, reference))

    def rows(self) -> list[dict[str, str]]:
        """The tasks, as a data set has them."""
        return [{"prompt": one.task.prompt, "answer": one.text, "task": name} for name, one in self.of.items()]


SCORER: list[Scorer] = []  # the one at hand, for the file that falsepass loads
_FILE = """
from bench.checkers_peer import SCORER


async def reward(completions, answer, task, **kwargs):
    return [await SCORER[0].score(*one) for one in zip(task, completions, answer)]
"""


def falsepass(scorer: Scorer, env: Any, folder: Path) -> str:
    """With its search, and rewardlint's corpus beside its own probes."""
    from falsepass import report, runner

    rows = scorer.rows()
    (folder / "rewards.py").write_text(_FILE)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = {"id": "local/rewards", "framework": "reward", "task": str(folder / "rewards.py"), "package": ""}
    told |= {"version": "", "dataset": str(folder / "data.jsonl")}
    lines = [f"{key} = {json.dumps(value)}" for key, value in told.items()]
    (folder / "env.toml").write_text("\n".join(["[env]", *lines, 'functions = ["reward"]']) + "\n")
    SCORER[:] = [scorer]
    try:
        payload = runner.run(folder, n=len(rows), few=1, search_calls=SEARCH, search_examples=1, jobs=1)
    except RuntimeError as error:
        raise NotThere(str(error)[:200]) from error
    lint = payload.get("rewardlint") or {}
    met = report.gate(payload["results"], GATE)
    return "; ".join(met) or str(lint.get("exploits") or "")


def reward_doctor(scorer: Scorer, env: Any, folder: Path) -> str:
    """Its corpus has references of its own, which take the place of the task's answer. Found is what fails its command:
    an exploit that is accepted, or a crash."""
    from reward_doctor.audit import audit

    name, one = next(iter(scorer.of.items()))
    if scorer.with_reference(one, "42") is None:
        raise NotThere("its tasks do not hold the answer as a text or a number")

    def reward(completion: str, reference: str) -> float:
        return scorer.now(name, completion, reference)

    found = audit(reward)
    return ", ".join(outcome.case.id for outcome in (*found.exploits_accepted, *found.errors))


def gradecheck(scorer: Scorer, env: Any, folder: Path) -> str:
    """Its attacks on completions, and, where there is a tree of files, those on trees."""
    from gradecheck import completion_attacks
    from gradecheck.verifiers_env import VerifiersEnv

    rows = scorer.rows()

    def reward(completion: str, answer: str, task: str) -> float:
        return scorer.now(task, completion, answer)

    rubric = SimpleNamespace(funcs=[reward], weights=[1.0])
    shown = SimpleNamespace(rubric=rubric, message_type="completion", get_dataset=lambda: rows)
    found = completion_attacks.run_all(VerifiersEnv(shown, sample=len(rows)))
    if hasattr(env, "files"):
        found += _tree(scorer, env, folder)
    return ", ".join(one.attack for one in found if one.verdict == "fooled")


def _tree(scorer: Scorer, env: Any, folder: Path) -> list[Any]:
    from gradecheck import runner

    task = next(iter(scorer.of.values())).task
    for path, content in env.files(task).items():
        (folder / "task" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "task" / path).write_text(content, encoding="utf-8")
    source = str(sys.modules[type(env).__module__].__file__)
    words = f"{sys.executable} -m bench.checkers_peer grade {Path(source).stem} {type(env).__name__} {{workspace}}"
    (folder / "gradecheck.toml").write_text(
        f'[env]\nworkspace = "task"\nsource_globs = [{json.dumps(env.module)}]\n'
        f'[grade]\ncmd = {json.dumps(words)}\npass_marker = "RESULT: PASS"\ntimeout = 60\n'
        f"source = [{json.dumps(source)}]\n"
    )
    found: list[Any] = runner.run(folder / "gradecheck.toml").findings
    return found


def grade(module: str, name: str, workspace: str) -> None:
    """Say whether a tree passes, on the first task."""
    env = getattr(probes._module(module), name)()
    from base_coding import Episode

    async def passes() -> bool:
        task = env.tasks("heldout", limit=1)[0]
        state = Episode(await env.pool.acquire())
        for path in Path(workspace).rglob("*"):
            if path.is_file():
                await state.sandbox.write(str(path.relative_to(workspace)), path.read_bytes())
        state.submitted = True
        try:
            return bool(await env.passes(task, state))
        finally:
            await state.close()
            await env.close()

    print("RESULT: PASS" if asyncio.run(passes()) else "RESULT: FAIL")


CHECKERS: Mapping[str, Callable[[Scorer, Any, Path], str]] = {
    "falsepass": falsepass,
    "reward-doctor": reward_doctor,
    "gradecheck": gradecheck,
}


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def over(*given: Any) -> None:
        raise NotThere(f"not done within {LIMIT_S} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)


def ours(fixture: probes.Fixture, seconds: float) -> dict[str, Any]:
    """What our own probes of validity say of it."""
    begun = time.monotonic()
    valid = [name for name, probe in known_probes().items() if probe.axis == "validity"]
    found = probes.probed(fixture, valid, seconds, OURS)
    told = [name for name, answer in found.items() if probes.serious(answer)]
    return {"found": ", ".join(told), "seconds": round(time.monotonic() - begun, 2)}


def checked(name: str, fixture: probes.Fixture) -> dict[str, Any]:
    """What a checker says of a fixture: `found` is empty for nothing."""
    module = probes._module(fixture.probe.replace("-", "_"))
    env = getattr(module, "FLAWED" if fixture.flawed else "CLEAN")[fixture.kind]()
    scorer: Scorer | None = None
    try:
        with _limited(), tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            scorer = Scorer(env, TASKS.get(name, USUAL)[hasattr(env, "files")])
            begun = time.monotonic()
            found = CHECKERS[name](scorer, env, Path(folder))
            answer: dict[str, Any] = {"found": found, "seconds": round(time.monotonic() - begun, 2)}
    except NotThere as why:
        answer = {"not_run": str(why)}
    except Exception as error:
        answer = {"not_run": f"{type(error).__name__}: {error}"[:300]}
    if scorer is not None and not scorer.loop.is_running():
        with contextlib.suppress(Exception):
            scorer.loop.run_until_complete(env.close())
    return answer


def main() -> None:
    """Answer until stdin ends; or grade one tree."""
    if sys.argv[1] == "grade":
        grade(*sys.argv[2:])
        return
    out = sys.stdout
    for line in sys.stdin:
        given = json.loads(line)
        fixture = probes.Fixture(given["probe"], given["flawed"], given["kind"])
        answer = ours(fixture, float(sys.argv[2])) if sys.argv[1] == "askesis" else checked(sys.argv[1], fixture)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    sys.modules["bench.checkers_peer"] = sys.modules["__main__"]  # what falsepass loads means this very module
    main()
