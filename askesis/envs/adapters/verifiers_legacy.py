"""Environments of verifiers before 0.4 (`load_environment`), each played by its own rollout.

Their rollout asks a client for the model's turn: the client is ours, and waits for the policy. So their prompts, tools,
replies, stop conditions and clean-up are theirs to the letter, in one coroutine an episode. When it is over, their
rubric judges the state that it left. What raises there is a failure of the environment or the verifier, never a 0.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from askesis.envs.adapters.verifiers_messages import ours, theirs
from askesis.envs.policies import legal
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Message,
    Outcome,
    Policy,
    Reward,
    Said,
    Session,
    Split,
    State,
    Task,
    Thinking,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    assistant,
)

MODEL = "policy"
_LIMITS = ("max_turns_reached", "max_total_completion_tokens_reached", "timeout_reached", "prompt_too_long")


class _Says(Policy):
    """One message, and nothing after it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """It, and then nothing."""
        text, self._text = self._text, ""
        return assistant(text)


class LegacyVerifiers:
    """One environment. Options:

    args: of its `load_environment`; so is every other option that is none of these. success_at: the reward from which
    an episode is a success. raising: what becomes of an episode on which a reward function raises: `fail` ends it as
    the verifier's failure, which is played again and not trained on; `zero` is what verifiers itself does, and right
    where it raises for what the policy said. oracle: a column of its data set that holds the right answer, which an
    oracle then says in the format of its parser. max_turns (None: the environment's own, or 16), max_turn_tokens,
    wall_s, tool_s: of an episode. Raises `ConfigError` for an environment that cannot be loaded, and for one whose
    rewards compare episodes.
    """

    def __init__(
        self,
        name: str,
        *,
        args: Mapping[str, Any] | None = None,
        success_at: float = 1.0,
        raising: Literal["fail", "zero"] = "fail",
        oracle: str = "",
        max_turns: int | None = None,
        max_turn_tokens: int = 2048,
        wall_s: float = 600.0,
        tool_s: float = 60.0,
        **more: Any,
    ) -> None:
        import verifiers

        self.name = f"verifiers:{name}"
        with _signals_kept():
            try:
                self._env = verifiers.load_environment(name, **{**(args or {}), **more})
            except Exception as error:
                raise ConfigError(f"{self.name} cannot be loaded: {_said(error)}") from error
        if getattr(self._env.rubric, "has_group_rewards", False) or any(map(_of_groups, _rubrics(self._env))):
            raise ConfigError(
                f"{self.name}: its rubric rewards episodes by comparing those of a group; here each is judged alone"
            )
        if raising not in ("fail", "zero"):
            raise ConfigError(f"{self.name}: raising={raising!r}: expected fail or zero")
        self._failures, self._raising = _Failures(), raising
        if oracle:
            self.oracle: Callable[[Task], Policy] = lambda task: _Says(self._formatted(task, oracle))
        for rubric in _rubrics(self._env):
            rubric.funcs = [self._failures.noted(func) for func in rubric.funcs]
        own = getattr(self._env, "max_turns", -1)
        self._limits = Limits(
            max_turns=max_turns or (own if own and own > 0 else 16),
            max_turn_tokens=max_turn_tokens,
            wall_s=wall_s,
            tool_s=tool_s,
        )
        self._success_at = success_at
        self._closed = False

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """Rows of its data set, shuffled by `seed`. `heldout` is its evaluation set; where it has none, one row in
        eight, by a hash of its content. Raises `EnvError` where a row is no JSON or has no prompt."""
        rows = self._rows(split)
        random.Random(f"{self.name}/{split}/{seed}").shuffle(rows)
        found: dict[str, Task] = {}
        for row in rows[: None if limit is None else 2 * limit + 8]:
            task = self._task(row, split)
            found.setdefault(task.id, task)
            if limit is not None and len(found) >= limit:
                break
        return list(found.values())

    def _rows(self, split: Split) -> list[dict[str, Any]]:
        env = self._env
        own = getattr(env, "eval_dataset_source", None) is not None or getattr(env, "eval_dataset", None) is not None
        train = getattr(env, "dataset_source", None) is not None or getattr(env, "dataset", None) is not None
        try:
            if own and train:
                held = _listed(env.get_eval_dataset())
                if split == "heldout":
                    return held
                taken = {_hash(row) for row in held}
                return [row for row in _listed(env.get_dataset()) if _hash(row) not in taken]
            rows = _listed(env.get_dataset() if train else env.get_eval_dataset())
        except Exception as error:
            raise EnvError(f"{self.name}: its data set cannot be made: {_said(error)}") from error
        return [row for row in rows if (_hash(row)[0] % 8 == 0) == (split == "heldout")]

    def _task(self, row: Mapping[str, Any], split: Split) -> Task:
        try:
            data = json.loads(json.dumps({"row": row}))
            prompt = "\n\n".join(one.text for one in ours(row["prompt"]) if one.text)
        except (TypeError, ValueError, KeyError) as error:
            raise EnvError(f"{self.name}: a row of its data set is no JSON with a prompt: {_said(error)}") from error
        return Task(env=self.name, prompt=prompt, data=data, limits=self._limits, split=split)

    def _formatted(self, task: Task, column: str) -> str:
        """The right answer of a row, as the environment's parser would have it."""
        row = task.data["row"]
        if column not in row:
            raise EnvError(f"{self.name}: oracle={column!r}: a row has {', '.join(sorted(row))}")
        right: str = str(row[column])
        parser: Any = getattr(self._env, "parser", None)
        field = getattr(parser, "answer_field", None)
        return str(parser.format(**{field: right})) if field and hasattr(parser, "format") else right

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> Played:
        """Their rollout, up to where it asks for the first turn. Raises `EnvError` if it comes to an end before."""
        if "row" not in task.data:
            raise EnvError(f"{self.name}: task {task.id} has no row in its data; was it made elsewhere?")
        state = Played(self._env)
        try:
            await state.start({**task.data["row"], "example_id": task.data["row"].get("example_id", 0)})
        except BaseException:
            await state.close()
            raise
        return state

    def opening(self, task: Task, state: State) -> Sequence[Message]:
        """Their first prompt, with its system message and examples."""
        return _own(state).heard

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """Theirs."""
        played = _own(state)
        return [_Theirs(played, spec) for spec in played.specs]

    async def respond(self, message: Message, state: State) -> Said | None:
        """What their rollout says to a turn that calls nothing."""
        played = _own(state)
        await played.answer(message)
        return Said(messages=played.heard, end=played.end)

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` (weight 0), then what their rubric gives, with its weights. Raises `VerifierError`, and `EnvError`
        where their environment failed on the last turn."""
        spoken = [node.message for node in trace.nodes if node.sampled]
        left = await _own(state).finished(spoken[-1] if spoken else None)
        with self._failures.watched() as failures:
            try:
                await self._env.rubric.score_rollout(left)
                if hasattr(self._env.rubric, "cleanup"):
                    await self._env.rubric.cleanup(left)
            except Exception as error:
                raise VerifierError(f"{self.name}: its rubric failed: {_said(error)}") from error
        if failures and self._raising == "fail":
            raise VerifierError(f"{self.name}: reward function {failures[0][0]} raised {_said(failures[0][1])}")
        total, metrics = float(left.get("reward") or 0.0), dict(left.get("metrics") or {})
        weights = {one.__name__: w for r in _rubrics(self._env) for one, w in zip(r.funcs, r.weights, strict=True)}
        terms = [
            Reward(name=_free(name), value=float(value), weight=float(weights.get(name, 0.0)))
            for name, value in metrics.items()
        ]
        if abs(sum(term.value * term.weight for term in terms) - total) > 1e-6 * max(1.0, abs(total)):
            terms = [Reward(name=term.name, value=term.value, weight=0.0) for term in terms]
            terms.insert(0, Reward(name="rubric", value=total))
        return [Reward(name="success", value=float(total >= self._success_at), weight=0.0), *terms]

    async def close(self) -> None:
        """Their teardown, once."""
        if not self._closed:
            self._closed = True
            await self._env._teardown()
            self._env._teardown_handlers = []  # theirs is registered to run at exit too
            for rubric in _rubrics(self._env):
                rubric._teardown_handlers = []


@dataclass(slots=True)
class Played:
    """One episode of theirs. heard: what their rollout said since the last turn; end: how it came to an end."""

    env: Any
    specs: list[ToolSpec] = field(default_factory=list)
    heard: list[Message] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    end: Outcome | None = None
    answered: Message | None = None
    stopping: bool = False
    _prompts: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    _answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    _length: int = 0
    _gone: BaseException | None = None  # what told them that there are no more turns
    _rollout: asyncio.Task[Any] | None = None

    async def start(self, row: Mapping[str, Any]) -> None:
        """Until the first turn is asked for."""
        self._rollout = asyncio.ensure_future(self.env.rollout(dict(row), _client(self), MODEL, {}))
        await self._hear()
        if self.end is not None:
            raise EnvError(f"verifiers: the rollout ended before the first turn: {self.end.reason}: {self.end.detail}")

    async def ask(self, prompt: Sequence[Any], tools: Sequence[Any] | None) -> Any:
        """What their client is asked: the policy's turn. Raises their `Error` when there is none any more."""
        if not self.stopping:
            await self._prompts.put((list(prompt), list(tools or ())))
            if (answer := await self._answers.get()) is not None:
                return answer
        import verifiers

        self._gone = verifiers.Error("the episode is over")
        raise self._gone

    async def answer(self, message: Message) -> None:
        """Give the policy's turn, and hear what comes of it."""
        self.answered = message
        kept = [one for one in message.tool_calls if self._fits(one.name, one.arguments)]
        await self._answers.put(theirs(message, kept))
        await self._hear()

    def _fits(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the harness lets a call pass; one that it turns down is none that they hear of."""
        spec = next((one for one in self.specs if one.name == name), None)
        return spec is not None and legal(spec.parameters, arguments)

    async def _hear(self) -> None:
        assert self._rollout is not None
        asked = asyncio.ensure_future(self._prompts.get())
        try:
            await asyncio.wait({asked, self._rollout}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                self._said(*asked.result())
                return
        finally:
            asked.cancel()
        self._ended(self._rollout)

    def _said(self, prompt: list[Any], tools: list[Any]) -> None:
        if not self._length:
            self.specs = [
                ToolSpec(name=one.name, description=one.description or "", parameters=one.parameters) for one in tools
            ]
            new = prompt
        elif len(prompt) > self._length:
            new = prompt[self._length + 1 :]
        else:
            raise EnvError("verifiers: the environment changes what was said before, which is not supported here")
        self._length = len(prompt)
        self._keep(new)

    def _keep(self, new: Sequence[Any]) -> None:
        told = ours(new)
        self.results = {one.tool_call_id or "": one.text for one in told if one.role == "tool"}
        self.heard = [one for one in told if one.role != "tool"]

    def _ended(self, rollout: asyncio.Task[Any]) -> None:
        self.heard, self.results = [], {}
        if rollout.cancelled() or (error := rollout.exception()) is not None:
            detail = "it was cancelled" if rollout.cancelled() else _said(error)
            self.end = Outcome(by="environment", reason="error", detail=f"verifiers: the rollout failed: {detail}")
            return
        left = rollout.result()
        self._keep(left.get("final_env_response") or ())
        reason = str(left.get("stop_condition") or "finished")
        if left.get("error") is not None:
            self.end = Outcome(by="environment", reason="error", detail=f"verifiers: {_said(left['error'])}")
        elif reason in _LIMITS and getattr(self.env, "max_turns", 0) != 1:
            self.end = Outcome(by="limit", reason="max_turns" if reason == _LIMITS[0] else reason)
        else:
            self.end = Outcome(by="policy", reason="finished")

    async def finished(self, last: Message | None) -> Any:
        """Their state, after the policy's `last` turn; a rollout that waits for more is told that there is none.

        A turn that ended the episode before they heard of it (a limit, a call that could not be read) is judged too.
        Raises `EnvError` where theirs failed on it, or after it.
        """
        assert self._rollout is not None
        if last is not None and last is not self.answered and not self._rollout.done():
            await self._answers.put(theirs(last, ()))
            await self._hear()
        cut = not self._rollout.done()
        self.stopping = True
        if cut:
            await self._answers.put(None)
        try:
            left = await self._rollout
        except Exception as error:
            raise EnvError(f"verifiers: the rollout failed: {_said(error)}") from error
        found = left.get("error")
        if cut and found is not None and self._gone in _chain(found):
            left["error"] = found = None  # ours
        if found is not None:
            raise EnvError(f"verifiers: {_said(found)}")
        return left

    async def close(self) -> None:
        """Stop their rollout, which cleans up after itself. Idempotent."""
        self.stopping = True
        if self._rollout is not None and not self._rollout.done():
            self._rollout.cancel()
            with suppress(BaseException):
                await self._rollout


@dataclass(frozen=True, slots=True)
class _Theirs:
    """One of their tools. The first call of a turn gives their rollout the whole turn; the others only fetch."""

    played: Played
    spec: ToolSpec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        message = next(one for one in reversed(session.messages) if one.role == "assistant")
        played = self.played
        if played.answered is not message:
            await played.answer(message)
        calls = [one for one in message.tool_calls if one.name == self.spec.name and one.arguments == args]
        call = next((one for one in calls if one.id in played.results), None)
        text = played.results.pop(call.id) if call is not None else ""
        if not played.results and played.heard:  # a tool's answer is all that a turn with calls gets
            text, played.heard = "\n\n".join([text, *(one.text for one in played.heard)]), []
        return ToolResult(text=text, end=played.end)


class _Failures:
    """What reward functions raise: verifiers itself makes a 0 of it and goes on."""

    def __init__(self) -> None:
        from contextvars import ContextVar

        self._here: Any = ContextVar("failures", default=None)

    @contextmanager
    def watched(self) -> Iterator[list[tuple[str, BaseException]]]:
        """The failures of functions that are called within."""
        found: list[tuple[str, BaseException]] = []
        token = self._here.set(found)
        try:
            yield found
        finally:
            self._here.reset(token)

    def noted(self, func: Any) -> Any:
        """`func`, with the same signature and name."""
        import functools
        import inspect

        def keep(error: BaseException) -> None:
            if (found := self._here.get()) is not None:
                found.append((getattr(func, "__name__", "?"), error))

        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def called(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await func(*args, **kwargs)
                except Exception as error:
                    keep(error)
                    raise

            return called

        @functools.wraps(func)
        def plain(*args: Any, **kwargs: Any) -> Any:
            try:
                return func(*args, **kwargs)
            except Exception as error:
                keep(error)
                raise

        return plain


def _client(played: Played) -> Any:
    """Their `Client` whose model is the policy."""
    from verifiers.clients import Client

    class PolicyClient(Client):  # type: ignore[misc]
        async def get_response(self, prompt: Any, *args: Any, tools: Any = None, **kwargs: Any) -> Any:
            return await played.ask(prompt, tools)

        def setup_client(self, config: Any) -> Any: ...
        async def to_native_tool(self, tool: Any) -> Any: ...
        async def to_native_prompt(self, messages: Any) -> Any: ...
        async def get_native_response(self, *args: Any, **kwargs: Any) -> Any: ...
        async def raise_from_native_response(self, response: Any) -> None: ...
        async def from_native_response(self, response: Any) -> Any: ...
        async def close(self) -> None: ...

    return PolicyClient(None)


def _rubrics(env: Any) -> list[Any]:
    """All rubrics that have functions: of groups, and of an environment's parts, too."""
    found: list[Any] = []
    waiting = [env.rubric, *(part.rubric for part in getattr(env, "envs", ()))]
    while waiting:
        rubric = waiting.pop(0)
        if not any(rubric is one for one in found):
            found.append(rubric)
            waiting += list(getattr(rubric, "rubrics", ()))
    return found


def _of_groups(rubric: Any) -> bool:
    return any(map(rubric._is_group_func, rubric.funcs))


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Their environments replace what Ctrl-C does when they are made."""
    kept = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in kept.items():
            with suppress(ValueError):  # not in the main thread, where theirs would have failed as well
                signal.signal(one, handler)


def _listed(dataset: Any) -> list[dict[str, Any]]:
    return [_without_none(row) for row in dataset]


def _without_none(value: Any) -> Any:
    """Columns that only other rows have come as None."""
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _hash(row: Mapping[str, Any]) -> bytes:
    content = {key: value for key, value in row.items() if key != "example_id"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).digest()


def _free(name: str) -> str:
    """`success` is ours."""
    return "rubric_success" if name == "success" else name


def _said(error: Any) -> str:
    text = f"{type(error).__name__}: {error}".strip(": ")
    if error is not None and error.__cause__ is not None:
        text += f" (from {type(error.__cause__).__name__}: {error.__cause__})"
    if "api_key" in text and "OPENAI_API_KEY" not in os.environ:
        text += "; a model judges here: set OPENAI_API_KEY, and OPENAI_BASE_URL for another endpoint"
    return text


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and those that it came from."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _own(state: State) -> Played:
    if not isinstance(state, Played):
        raise EnvError(f"verifiers: got a state of type {type(state).__name__}, expected the one from `setup`")
    return state
