"""`team`: an orchestrator finds out what no one specialist can, from specialists who see only their own cards.

What is asked is spread over three offices. Each has its specialist, with a conversation and a tool of its own; the
orchestrator has none of their tools, and they know nothing but what it tells them. The tools only read. What decides
the reward stays in the task's data.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from askesis.envs.team import world
from askesis.envs.team.policies import Habits, Oracle, Orchestrator
from askesis.envs.team.world import Card, Place
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Outcome,
    Policy,
    Reward,
    Session,
    Specialist,
    Split,
    State,
    Task,
    Tool,
    ToolResult,
    ToolSpec,
    Trace,
    nearest,
)

MOST_ANSWER = 200  # characters
INSTRUCTIONS = (
    "You keep an office's cards on ships. Look up what is asked. Report what the latest card says, and its day."
)
LOOK_SPEC = ToolSpec(
    name="look",
    description="Read your cards on a ship.",
    parameters={
        "type": "object",
        "properties": {
            "ship": {"type": "string", "maxLength": 40},
            "page": {"type": "integer", "minimum": 1, "maximum": 1000},
        },
        "required": ["ship"],
        "additionalProperties": False,
    },
)
ANSWER_SPEC = ToolSpec(
    name="answer",
    description="Give the answer.",
    parameters={
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": MOST_ANSWER}},
        "required": ["text"],
        "additionalProperties": False,
    },
)


@dataclass(slots=True)
class TeamState:
    """One episode: the cards, which of them a specialist has seen, and what was answered."""

    cards: Mapping[str, Sequence[Card]]
    seen: set[Place] = field(default_factory=set)
    looks: int = 0
    answer: str | None = None

    async def close(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One tool for all offices: whose cards it shows is the office's whose specialist calls it."""

    state: TeamState
    lines: int
    spec: ToolSpec = field(default=LOOK_SPEC)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        office, ship, page = session.specialist, str(args["ship"]).strip().casefold(), int(args.get("page", 1))
        self.state.looks += 1
        own = [(number, card) for number, card in enumerate(self.state.cards.get(office, ())) if card.ship == ship]
        shown = own[(page - 1) * self.lines : page * self.lines]
        if not shown:
            return ToolResult(text="no card" if not own else f"no page {page}", error=True)
        self.state.seen.update((office, number) for number, _ in shown)
        left = len(own) - page * self.lines
        more = [f"({left} more: page {page + 1})"] if left > 0 else []
        return ToolResult(text="\n".join([*(card.text for _, card in shown), *more]))


@dataclass(frozen=True, slots=True)
class _Answer:
    state: TeamState
    spec: ToolSpec = field(default=ANSWER_SPEC)

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.answer = str(args["text"])
        return ToolResult(text="answered", end=Outcome(by="policy", reason="submitted"))


class Team:
    """The environment. Options:

    levels: drawn evenly; see README.md. ships: of a world, and so how long the offices' books are. lines: cards on a
    page. max_turns: of an episode, all agents' together; max_turn_tokens: of each turn. Raises `ConfigError` for
    senseless values.
    """

    name = "team"
    harness = "orchestrator@1"

    def __init__(
        self,
        *,
        levels: Sequence[int] = world.LEVELS,
        ships: int = 6,
        lines: int = 4,
        max_turns: int = 48,
        max_turn_tokens: int = 160,
    ) -> None:
        if not levels or set(levels) - set(world.LEVELS):
            raise ConfigError(f"team: levels={list(levels)}: expected one or more of {list(world.LEVELS)}")
        if not 4 <= ships <= len(world.SHIPS):
            raise ConfigError(f"team: ships={ships}: expected 4 to {len(world.SHIPS)}")
        if lines < 1:
            raise ConfigError(f"team: lines={lines}: expected 1 card on a page at least")
        self._levels, self._ships, self._lines = tuple(levels), ships, lines
        self._limits = Limits(max_turns=max_turns, max_turn_tokens=max_turn_tokens)
        self._theirs = Limits(max_turns=min(8, max_turns), max_turn_tokens=max_turn_tokens)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000), each a world of its own. Its split follows from a hash of its content."""
        rng = random.Random(f"team/{split}/{seed}")
        found: dict[str, Task] = {}
        while len(found) < (1000 if limit is None else limit):
            task = self._task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    def _task(self, rng: random.Random, split: Split) -> Task:
        level = rng.choice(self._levels)
        drawn = world.draw(rng, level, self._ships)
        data = {
            "level": level,
            "cards": {
                office: [[one.ship, one.relation, one.value, one.day] for one in cards]
                for office, cards in drawn.cards.items()
            },
            "answer": list(drawn.values),
            "decides": [list(place) for place in drawn.decides],
            "contested": [[list(place) for place in places] for places in drawn.contested],
        }
        return Task(env=self.name, prompt=drawn.question, data=data, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> TeamState:
        """The cards. Raises `EnvError` for another task's shape."""
        try:
            return TeamState(
                {
                    office: [Card(ship=s, relation=r, value=v, day=d) for s, r, v, d in cards]
                    for office, cards in task.data["cards"].items()
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EnvError(f"team: task {task.id}: its data are none of `Team.tasks`: {error!r}") from error

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """answer, and look, which is the specialists' alone."""
        state = _team_state(state)
        return (_Answer(state), _Look(state, self._lines))

    def specialists(self, task: Task, state: State) -> Sequence[Specialist]:
        """One for each office."""
        return [
            Specialist(
                name=office,
                description=f"the {office} office",
                tools=[LOOK_SPEC.name],
                instructions=INSTRUCTIONS,
                limits=self._theirs,
            )
            for office in world.OFFICES
        ]

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0, and metrics of weight 0."""
        state = _team_state(state)
        data = trace.task.data
        right = state.answer is not None and plain(state.answer) == [str(one) for one in data["answer"]]
        found = [tuple(place) in state.seen for place in data["decides"]]
        rewards = [
            Reward(name="success", value=float(right and all(found))),
            Reward(name="right", value=float(right), weight=0.0),
            Reward(name="found", value=sum(found) / len(found), weight=0.0),
            Reward(name="delegated", value=float(sum(fork.kind == "agent" for fork in trace.forks)), weight=0.0),
            Reward(name="looks", value=float(state.looks), weight=0.0),
        ]
        if data["contested"]:
            both = [all(tuple(place) in state.seen for place in places) for places in data["contested"]]
            rewards.append(Reward(name="compared", value=sum(both) / len(both), weight=0.0))
        return rewards

    async def close(self) -> None:
        """Nothing is held."""

    # -- scripted policies ---------------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Finds every answer, by what it is told alone."""
        return Oracle()

    def demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        """Plays all agents: with `poor` habits for the cold start, `good` or `hasty` ones for comparison."""
        habits = {"poor": Habits(), "good": Habits.good(), "hasty": Habits.hasty()}
        if quality not in habits:
            raise ConfigError(f"team: unknown demonstration quality {quality!r}{nearest(quality, habits)}")
        return Orchestrator(random.Random(f"{task.id}/{seed}"), habits[quality])


def plain(answer: str) -> list[str]:
    """The parts of an answer, without what is no part of it: blanks, capitals, a full stop at the end."""
    return [part.strip().casefold() for part in answer.strip().removesuffix(".").split(",")]


def _team_state(state: State) -> TeamState:
    if not isinstance(state, TeamState):
        raise EnvError(f"team: got a state of type {type(state).__name__}, expected the one from `Team.setup`")
    return state
