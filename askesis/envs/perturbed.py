"""Any environment with faults put into its tools: the option `perturb` of every environment.

Which call meets which fault follows from the seed, the task, the episode's seed and the call's place: an episode can be
played again. A fault is an observation of the task, never an infrastructure outcome, and every one is recorded in the
metrics of the verdict, with the calls that were hit as evidence.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from askesis.envs.functions import tool
from askesis.envs.wrapping import WrappedEnv, WrappedState, inner_state
from askesis.types import (
    ConfigError,
    Env,
    Message,
    Policy,
    Reward,
    Session,
    Specialist,
    State,
    Task,
    Thinking,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    nearest,
    tool_result,
)

FAULTS = ("fail", "timeout", "truncate", "delay", "noise", "partial")
FAILED = "error: the tool is not available at the moment"
TIMED_OUT = "error: no answer in time; whether the call was carried out is not known"
DELAYED = "the answer is late; it comes with that of the next call"
_LATE_END = "[end of the late answer]\n"
_LATE = "late answer to {name}:\n{text}\n" + _LATE_END
_LOST = " characters lost]"
_KEPT = 10_000  # tasks whose names are remembered for their oracles
_NAMES = "amber birch cedar delta ember flint grove haven iris jasper karst lotus maple noble onyx pearl quartz".split()
_NOISE = "abcdefghijklmnopqrstuvwxyz0123456789#~?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """What goes wrong, and how often. Each of the first six is the probability that a call meets it; at most one does.

    fail: the call is not carried out. timeout: its answer is lost; half of such calls were carried out. truncate: the
    answer breaks off, and says so. delay: the answer comes with that of the next call. noise: some of its characters
    are others. partial: some of its lines are missing, which nothing says. rename: share of the tools that have a name
    that means nothing. useless: how many tools there are that do nothing for the task. most: of faults in an episode;
    None for no bound. seed: changes all of it. Raises `ConfigError` for what cannot be.
    """

    fail: float = 0.0
    timeout: float = 0.0
    truncate: float = 0.0
    delay: float = 0.0
    noise: float = 0.0
    partial: float = 0.0
    rename: float = 0.0
    useless: int = 0
    most: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*FAULTS, "rename"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"perturb: {name}={value!r}, expected a probability from 0 to 1")
        if (total := sum(getattr(self, name) for name in FAULTS)) > 1 + 1e-9:
            raise ConfigError(f"perturb: {', '.join(FAULTS)} add up to {total:g}, expected at most 1")
        if not isinstance(self.useless, int) or not 0 <= self.useless <= len(_USELESS):
            raise ConfigError(f"perturb: useless={self.useless!r}, expected a number from 0 to {len(_USELESS)}")
        if self.most is not None and (not isinstance(self.most, int) or self.most < 0):
            raise ConfigError(f"perturb: most={self.most!r}, expected 0 or more")

    @classmethod
    def of(cls, given: Perturbation | Mapping[str, Any]) -> Perturbation:
        """Out of a recipe or a flag. Raises `ConfigError`."""
        if isinstance(given, Perturbation):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f"perturb: {given!r}, expected a table, as in perturb = {{fail = 0.2}}")
        known = [one.name for one in fields(cls)]
        for key in given:
            if key not in known:
                raise ConfigError(f"perturb: unknown key {key!r}{nearest(key, known)} (known: {', '.join(known)})")
        return cls(**given)


@dataclass(slots=True)
class Injected:
    """A fault that was put in. tool: by its own name. turn: the assistant's message that made the call, from 1.

    recovered_turn: the first later turn in which the same tool gave an answer that nothing was done to. agent: whose
    call it was, by its seed; turns are that agent's own.
    """

    kind: str
    tool: str
    turn: int
    recovered_turn: int | None = None
    agent: int = 0


@dataclass(slots=True)
class _Record:
    """What has happened in one episode. calls: of each agent in it, by its seed; late: an answer that it is still to
    get, and of which tool."""

    calls: Counter[int] = field(default_factory=Counter)
    faults: list[Injected] = field(default_factory=list)
    late: dict[int, str] = field(default_factory=dict)


class _PerturbedState(WrappedState):
    def __init__(self, inner: State, names: Mapping[str, str]) -> None:
        super().__init__(inner)
        self.names, self.record = names, _Record()


class Perturbed(WrappedEnv):
    """`inner` with faults. Its oracle repeats a call that met one that can be seen, as an agent could."""

    def __init__(self, inner: Env, perturbation: Perturbation | Mapping[str, Any]) -> None:
        super().__init__(inner)
        self.perturbation = Perturbation.of(perturbation)
        self._names: dict[str, Mapping[str, str]] = {}

    async def setup(self, task: Task) -> State:
        """The environment's; which names its tools have is known when they are."""
        return _PerturbedState(await self.inner.setup(task), {})

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """The environment's, perturbed, among useless ones; the same for all episodes of a task."""
        assert isinstance(state, _PerturbedState)
        own = self.inner.tools(task, inner_state(state))
        state.names = self.names(task, [one.spec.name for one in own])
        if len(self._names) >= _KEPT:
            self._names.clear()
        self._names[task.id] = state.names
        found = [_PerturbedTool(one, state.names[one.spec.name], self.perturbation, state.record) for one in own]
        rng = random.Random(f"useless/{self.perturbation.seed}/{task.id}")
        taken = {one.spec.name for one in found}
        useless = [one for one in _USELESS if one.spec.name not in taken]
        mixed: list[Tool] = [*found, *rng.sample(useless, min(self.perturbation.useless, len(useless)))]
        if self.perturbation.useless:
            rng.shuffle(mixed)
        return mixed

    def specialists(self, task: Task, state: State) -> Sequence[Specialist]:
        """The environment's, with the names that their tools have here. Asked for after the tools."""
        assert isinstance(state, _PerturbedState)
        found = super().specialists(task, state)
        return [replace(one, tools=[state.names.get(name, name) for name in one.tools]) for one in found]

    def names(self, task: Task, own: Sequence[str]) -> dict[str, str]:
        """What each tool is called in this task."""
        rng = random.Random(f"rename/{self.perturbation.seed}/{task.id}")
        free = rng.sample([name for name in _NAMES if name not in own], min(len(own), len(_NAMES)))
        names = {name: name for name in own}
        for name, other in zip(own, free, strict=False):
            if rng.random() < self.perturbation.rename:
                names[name] = other
        return names

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """The environment's verdict, on a trace with its own names, and what became of the faults, with weight 0."""
        assert isinstance(state, _PerturbedState)
        own = {other: name for name, other in state.names.items() if other != name}
        verdict = await self.inner.verify(_under_own_names(trace, own), inner_state(state))
        success = next((term.value for term in verdict if term.name == "success"), 0.0)
        return [*verdict, *fault_metrics(state.record.faults, success)]

    def oracle(self, task: Task) -> Policy:
        """The environment's, which repeats what met a fault that it can see."""
        inner: Any = getattr(self.inner, "oracle", None)
        if inner is None:
            raise ConfigError(f"environment {self.inner.name!r} has no oracle")
        return _Persistent(inner(task), self._names.get(task.id, {}))


def fault_metrics(faults: Sequence[Injected], success: float) -> list[Reward]:
    """What `askesis eval` averages. All have weight 0.

    faults_injected: how many. success_hit: success where there was one, success_spared: where there was none.
    recovered: share of the faults after which the same tool gave an untouched answer, or the episode succeeded.
    turns_to_recover: mean over those faults of the turns until that answer; missing where there was none.
    """
    told = json.dumps([{"kind": one.kind, "tool": one.tool, "turn": one.turn} for one in faults])
    terms = [Reward(name="faults_injected", value=float(len(faults)), weight=0.0, evidence=told if faults else "")]
    if not faults:
        return [*terms, Reward(name="success_spared", value=success, weight=0.0)]
    recovered = [one for one in faults if one.recovered_turn is not None or success >= 1.0]
    terms.append(Reward(name="success_hit", value=success, weight=0.0))
    terms.append(Reward(name="recovered", value=len(recovered) / len(faults), weight=0.0))
    turns = [one.recovered_turn - one.turn for one in faults if one.recovered_turn is not None]
    if turns:
        terms.append(Reward(name="turns_to_recover", value=sum(turns) / len(turns), weight=0.0))
    return terms


@dataclass(frozen=True, slots=True)
class _PerturbedTool:
    inner: Tool
    name: str
    perturbation: Perturbation
    record: _Record

    @property
    def spec(self) -> ToolSpec:
        return replace(self.inner.spec, name=self.name)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        record, own = self.record, self.inner.spec.name
        agent = session.seed
        record.calls[agent] += 1
        place = f"{self.perturbation.seed}/{session.task.id}/{agent}/{record.calls[agent]}"
        rng = random.Random(f"fault/{place}")
        kind = self._drawn(rng)
        turn = sum(message.role == "assistant" for message in session.messages)
        late = record.late.pop(agent, "")
        if kind == "fail":
            return self._hit(kind, agent, turn, ToolResult(text=late + FAILED, error=True))
        if kind == "timeout" and rng.random() < 0.5:
            return self._hit(kind, agent, turn, ToolResult(text=late + TIMED_OUT, error=True))
        result = await self.inner(args, session)
        if kind == "timeout":
            return self._hit(kind, agent, turn, replace(result, text=late + TIMED_OUT, error=True))
        if kind == "delay" and result.end is None:
            record.late[agent] = _LATE.format(name=self.name, text=result.text)
            return self._hit(kind, agent, turn, replace(result, text=late + DELAYED))
        changed = _changed(kind, result.text, rng)
        if changed != result.text and result.end is None:
            return self._hit(kind, agent, turn, replace(result, text=late + changed))
        for fault in record.faults:
            if (fault.tool, fault.agent) == (own, agent) and fault.recovered_turn is None and fault.turn < turn:
                fault.recovered_turn = turn
        return replace(result, text=late + result.text)

    def _drawn(self, rng: random.Random) -> str:
        """Which fault this call meets; empty for none."""
        left, most = rng.random(), self.perturbation.most
        if most is not None and len(self.record.faults) >= most:
            return ""
        for kind in FAULTS:
            left -= getattr(self.perturbation, kind)
            if left < 0:
                return kind
        return ""

    def _hit(self, kind: str, agent: int, turn: int, result: ToolResult) -> ToolResult:
        self.record.faults.append(Injected(kind, self.inner.spec.name, turn, agent=agent))
        return replace(result, fault=kind)


def _under_own_names(trace: Trace, own: Mapping[str, str]) -> Trace:
    """`trace` as if nothing had been renamed: in its calls, and in what ran. Tokens and texts stay what they were."""
    if not own:
        return trace
    events = tuple(replace(event, name=own.get(event.name, event.name)) for event in trace.tool_events)
    nodes = []
    for node in trace.nodes:
        calls = tuple(replace(call, name=own.get(call.name, call.name)) for call in node.message.tool_calls)
        nodes.append(replace(node, message=replace(node.message, tool_calls=calls)) if calls else node)
    return replace(trace, tool_events=events, nodes=tuple(nodes))


def _changed(kind: str, text: str, rng: random.Random) -> str:
    """An answer after a fault that touches its text; as it was for another kind, or with nothing to touch."""
    if kind == "truncate" and len(text) > 1:
        kept = rng.randint(0, len(text) - 1)
        return f"{text[:kept]}... [{len(text) - kept}{_LOST}"
    if kind == "noise":
        places = [place for place, letter in enumerate(text) if not letter.isspace()]
        letters = list(text)
        for place in rng.sample(places, min(len(places), max(1, len(places) // 10))):
            letters[place] = rng.choice([letter for letter in _NOISE if letter != letters[place]])
        return "".join(letters)
    if kind == "partial" and text:
        lines = text.split("\n")
        left = [line for line in lines if rng.random() < 0.5]
        return "\n".join(left if len(left) < len(lines) else lines[:-1])
    return text


class _Persistent(Policy):
    """A policy under the names that tools have here. It repeats a call that was visibly lost, and the one beneath sees
    a conversation without all that."""

    def __init__(self, inner: Policy, names: Mapping[str, str]) -> None:
        self._inner, self._names = inner, names
        if hasattr(inner, "sub_agent"):
            self.sub_agent = self._sub_agent  # as a sub-agent, any other would be made anew
        self._last: Message | None = None

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The last message again where what it got says that it failed, else what the policy says."""
        if self._last is None or messages[-1].role != "tool" or not _visible(messages[-1].text):
            said = self._inner.act(_undisturbed(messages), thinking)
            calls = tuple(replace(call, name=self._names.get(call.name, call.name)) for call in said.tool_calls)
            self._last = replace(said, tool_calls=calls)
        return self._last

    def _sub_agent(self, name: str, specialist: str) -> Policy:
        inner: Any = self._inner
        return _Persistent(inner.sub_agent(name, specialist), self._names)


def _visible(text: str) -> bool:
    return text.endswith((FAILED, TIMED_OUT, DELAYED, _LOST))


def _undisturbed(messages: Sequence[Message]) -> list[Message]:
    """Without calls that were lost, and without late answers."""
    found: list[Message] = []
    for message in messages:
        if message.role == "tool" and _visible(message.text):
            if found and found[-1].role == "assistant":
                found.pop()
        elif message.role == "tool" and _LATE_END in message.text:
            found.append(tool_result(message.text.partition(_LATE_END)[2], tool_call_id=message.tool_call_id))
        else:
            found.append(message)
    return found


def _lookup_weather(place: str) -> str:
    """Say what the weather is like at a place."""
    return f"{place}: mild, some clouds"


def _convert_units(amount: float, unit: str) -> str:
    """Convert an amount into metric units."""
    return f"{amount:g} {unit}"


def _send_note(text: str) -> str:
    """Send a note to a colleague."""
    return "sent"


def _list_holidays(year: int) -> str:
    """List the public holidays of a year."""
    return f"{year}: none are known"


def _translate(text: str, language: str) -> str:
    """Translate a text."""
    return text


def _roll_dice(sides: int) -> str:
    """Roll a die."""
    return str(max(1, sides // 2))


_USELESS = tuple(
    tool(one, name=one.__name__.lstrip("_"))
    for one in (_lookup_weather, _convert_units, _send_note, _list_holidays, _translate, _roll_dice)
)
