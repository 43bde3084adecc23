"""An episode of one question: an answer is given once, through a tool, and judged when the episode is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.envs.reasoning.drawing import Source, known, library
from askesis.envs.reasoning.policies import Answerer
from askesis.envs.reasoning.scoring import ASK_S, MOST, judged, release
from askesis.sandbox import LazyPool
from askesis.tools.python import RUNNER, python_tool
from askesis.types import (
    AskesisError,
    ConfigError,
    EnvError,
    Limits,
    Outcome,
    Policy,
    Reward,
    RunLimits,
    Sandbox,
    Session,
    Split,
    State,
    Task,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    nearest,
)

ANSWER = ToolSpec(
    name="answer",
    description="Give the answer: it alone, without explanation. It counts once.",
    parameters={
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": MOST}},
        "required": ["answer"],
    },
)
ASKED = "Give your answer with the tool `answer`."
MAY_RUN = "You may run Python before."
PYTHON_LIMITS = RunLimits(wall_s=5.0, cpu_s=5.0, memory=256 * 2**20, processes=8, file_size=2**20, output=2**14)
_SUBMITTED = Outcome(by="policy", reason="submitted")


@dataclass(slots=True)
class QuestionState:
    """One episode: what was answered, and where Python runs."""

    sandbox: Sandbox | None = None
    answer: str | None = None
    runs: int = 0

    async def close(self) -> None:
        """Delete the sandbox, where there is one."""
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.close()


@dataclass(frozen=True, slots=True)
class _Answer:
    state: QuestionState
    spec: ToolSpec = field(default=ANSWER)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.answer = str(args["answer"])
        return ToolResult(text="answered", end=_SUBMITTED)


@dataclass(frozen=True, slots=True)
class _Counted:
    state: QuestionState
    tool: Tool
    spec: ToolSpec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.runs += 1
        return await self.tool(args, session)


class Questions:
    """What the family `reasoning` and the adapter to reasoning-gym have in common: all but which questions there are.

    python: offer the tool `python`, in a sandbox. max_turns, max_turn_tokens: of an episode. workers: sandboxes at
    once. Raises `MissingExtra` without reasoning-gym, `ConfigError` for senseless values.
    """

    verify_s = ASK_S + 20.0
    solved = True  # whether an answer to every question is known; without, there is no oracle

    def __init__(self, *, name: str, python: bool, max_turns: int, max_turn_tokens: int, workers: int) -> None:
        library()
        self.name = name
        self._python = python
        self._limits = Limits(max_turns=max_turns, max_turn_tokens=max_turn_tokens, tool_s=PYTHON_LIMITS.wall_s + 25.0)
        self._sandboxes = LazyPool(size=workers, limits=PYTHON_LIMITS, programs=(RUNNER,)) if python else None

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """Each class its own."""
        raise NotImplementedError

    def task(
        self,
        source: Source,
        split: Split,
        entry: Mapping[str, Any],
        *,
        seed: int,
        size: int,
        place: int,
        level: int | None = None,
    ) -> Task:
        """One question as a task. entry: `source.entry(seed, size, place)`. Its split is for the caller to know."""
        asked = f"{MAY_RUN} {ASKED}" if self._python else ASKED
        data = {
            "dataset": source.name,
            **({} if level is None else {"level": level}),
            "config": [[key, _plain(value)] for key, value in source.config],
            "seed": seed,
            "size": size,
            "place": place,
            "answer": known(entry),
        }
        prompt = f"{entry['question'].rstrip()}\n\n{asked}"
        return Task(env=self.name, prompt=prompt, data=data, limits=self._limits, split=split)

    async def setup(self, task: Task) -> QuestionState:
        """Nothing, or a sandbox. Raises `EnvError` for a task of another shape."""
        missing = [key for key in ("dataset", "config", "seed", "size", "place") if key not in task.data]
        if missing:
            raise EnvError(
                f"{self.name}: task {task.id} has no {', '.join(missing)} in its data; was it made elsewhere?"
            )
        return QuestionState(sandbox=None if self._sandboxes is None else await self._sandboxes.acquire())

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """answer, and python where that was asked for."""
        state = self._own(state)
        if state.sandbox is None:
            return (_Answer(state),)
        python = python_tool(state.sandbox)
        return (_Counted(state, python, python.spec), _Answer(state))

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0. Metrics of weight 0: `share`, what reasoning-gym's scorer gives; `runs` of Python.

        Raises `VerifierError` where the question cannot be made again as it was.
        """
        state = self._own(state)
        data, right, share, why = trace.task.data, False, 0.0, "no answer"
        if state.answer is not None and trace.outcome.reason == _SUBMITTED.reason:
            entry, dataset = self._again(trace.task)
            verdict = await judged(dataset, data["dataset"], state.answer, entry)
            right, share, why = verdict.right, verdict.share, verdict.why
        rewards = [
            Reward(name="success", value=float(right), evidence=why),
            Reward(name="share", value=share, weight=0.0),
        ]
        if self._sandboxes is not None:
            rewards.append(Reward(name="runs", value=float(state.runs), weight=0.0))
        return rewards

    def _again(self, task: Task) -> tuple[Mapping[str, Any], Any]:
        data = task.data
        source = Source.of(data["dataset"], dict(data["config"]))
        try:
            entry = source.entry(data["seed"], data["size"], data["place"])
        except AskesisError as error:
            raise VerifierError(f"{self.name}: task {task.id}: {error}") from error
        if not task.prompt.startswith(entry["question"].rstrip()) or known(entry) != data["answer"]:
            raise VerifierError(
                f"{self.name}: task {task.id}: reasoning-gym makes another question of its seed now: got "
                f"{entry['question'][:80]!r}, expected {task.prompt[:80]!r}; is another version of it installed?"
            )
        return entry, source.dataset(data["seed"], data["size"])

    async def close(self) -> None:
        """Stop the sandboxes, and the process that scores."""
        release()
        if self._sandboxes is not None:
            await self._sandboxes.close()

    @property
    def oracle(self) -> Callable[[Task], Policy]:
        """Gives the known answer. There is none where `solved` is not so."""
        self._demand_solved("oracle")
        return lambda task: Answerer(task, seed=0, right=1.0)

    @property
    def demonstrator(self) -> Callable[..., Policy]:
        """(task, *, seed, quality="poor"): gives the known answer always (`good`), or in six of ten cases (`poor`),
        else one that nearly is. There is none where `solved` is not so."""
        self._demand_solved("demonstrator")
        return self._demonstrator

    def _demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        shares = {"good": 1.0, "poor": 0.6}
        if quality not in shares:
            raise ConfigError(f"{self.name}: unknown demonstration quality {quality!r}{nearest(quality, shares)}")
        return Answerer(task, seed=seed, right=shares[quality])

    def _demand_solved(self, what: str) -> None:
        if not self.solved:
            raise AttributeError(f"{self.name} has no {what}: reasoning-gym gives no answer to its questions")

    def _own(self, state: State) -> QuestionState:
        if not isinstance(state, QuestionState):
            raise EnvError(f"{self.name}: got a state of type {type(state).__name__}, expected the one from `setup`")
        return state


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
