"""Three small environments that are worlds to act in, each sound: an office of accounts, a field with walls, a letter.

What varies in the fixtures is one part of one of them. Every episode has a state of its own; every task is drawn from a
source of chance of its own; a task's split follows from a hash of its content.
"""

import json
import random

from askesis.envs import tool
from askesis.types import Limits, Outcome, Reward, Task, ToolCall, ToolResult, assistant

HEADS, TAILS = (
    "bar den fal gor hul jem kor lim mas nov pel rud sor tam vel wix".split(),
    "ado eka ilo omi uno yra".split(),
)
NAMES = [head + tail for head in HEADS for tail in TAILS]
WORDS = (
    "amber anchor apple arrow basket beacon branch bridge bucket candle canvas carpet castle cellar cherry "
    "cliff cloud copper corner cotton cradle crystal curtain desert dragon engine feather fiddle finger forest "
    "fountain garden ginger glacier hammer harbor harvest helmet honey island jacket kettle kitchen ladder "
    "lantern lemon lizard magnet marble meadow mirror morning mountain needle oyster paddle pepper pillow "
    "pocket puzzle rabbit ribbon rocket saddle shadow silver spider spring stable summer tailor temple thunder "
    "timber tunnel valley velvet village violin walnut whisper willow window winter wizard "
).split()
SUBMITTED = Outcome(by="policy", reason="submitted")


class Script:
    """Makes these calls, one a turn."""

    def __init__(self, calls):
        self.calls = [ToolCall(id="call_0", name=name, arguments=arguments) for name, arguments in calls]

    def act(self, messages, thinking):
        return assistant(tool_calls=(self.calls.pop(0),)) if self.calls else assistant()


class World:
    """A subclass has `draw(rng, level)`, which gives prompt and data; a `State`; `route(data)`, the oracle's calls."""

    limits = Limits(max_turns=24)
    levels = (1, 2, 3)
    wants = ()  # what another class of the same world is given

    def tasks(self, split, *, seed=0, limit=None):
        rng, found = random.Random(f"{self.name}/{split}/{seed}"), {}
        while len(found) < (200 if limit is None else limit):
            task = self.task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    def task(self, rng, split):
        level = rng.choice(self.levels)
        prompt, data = self.draw(rng, level)
        return Task(env=self.name, prompt=prompt, data={**data, "level": level}, limits=self.limits, split=split)

    async def setup(self, task):
        return self.State(task)

    def tools(self, task, state):
        return [tool(getattr(state, name)) for name in state.offered]

    async def verify(self, trace, state):
        return [Reward(name="success", value=float(self.paid(trace, state)))]

    def paid(self, trace, state):
        return trace.outcome.reason == "submitted" and state.right()

    async def close(self):
        """Nothing is held."""

    def oracle(self, task):
        return Script(self.route(task.data))

    def demonstrator(self, task, *, seed, quality="poor"):
        """Does it right about half of the time, less often where it is long."""
        route = self.route(task.data)
        rng = random.Random(f"{task.id}/{seed}")
        if rng.random() < (0.2 if quality == "poor" else 0.05) * len(route):
            del route[rng.randrange(len(route) - 1)]
        return Script(self.spoilt(route, task.data))

    def spoilt(self, route, data):
        """The route with something left out, as somebody would go it who does not know."""
        return route


class State:
    """One episode. offered: the names of its tools."""

    offered = ()

    def __init__(self, task):
        self.task, self.data = task, json.loads(json.dumps(task.data))

    async def close(self):
        """Nothing is held."""


# -- accounts ----------------------------------------------------------------------------------------------------------


class AccountsState(State):
    """What has been read, and what was answered."""

    offered = ("read", "answer")
    said = None

    def read(self, account: str):
        """Read an account."""
        found = self.data["accounts"].get(account)
        return (
            f"no account {account!r}; ask for one that you were told of"
            if found is None
            else self.shown(account, found)
        )

    def shown(self, account, found):
        return f"{account} holds {found}" if isinstance(found, int) else f"{account} is held by {found}"

    def answer(self, total: int):
        """Say what they hold together."""
        self.said = total
        return ToolResult(text="noted", end=SUBMITTED)

    def right(self):
        return type(self.said) is int and self.said == self.data["total"]


class Accounts(World):
    """What do some accounts hold together? One may be held by another, which is read next."""

    name, State = "accounts", AccountsState

    def draw(self, rng, level):
        asked = rng.sample(NAMES, level + 1)
        accounts = {name: rng.randint(100, 9999) for name in asked}
        if level > 1:
            other = rng.choice([name for name in NAMES if name not in accounts])
            accounts[other], accounts[asked[-1]] = accounts[asked[-1]], other
        total = sum(value for value in accounts.values() if isinstance(value, int))
        return f"What do {', '.join(asked[:-1])} and {asked[-1]} hold together?", {"accounts": accounts, "total": total}

    def route(self, data):
        return [("read", {"account": name}) for name in data["accounts"]] + [("answer", {"total": data["total"]})]

    def spoilt(self, route, data):
        read = [arguments["account"] for name, arguments in route if name == "read"]
        total = sum(value for name, value in data["accounts"].items() if name in read and isinstance(value, int))
        return [*route[:-1], ("answer", {"total": total})]


# -- the field ---------------------------------------------------------------------------------------------------------

STEPS = {"north": (0, -1), "south": (0, 1), "west": (-1, 0), "east": (1, 0)}


class FieldState(State):
    """Where one stands."""

    offered = ("look", "move", "done")

    def __init__(self, task):
        super().__init__(task)
        self.at = tuple(self.data["start"])

    def free(self, x, y):
        return 0 <= x < self.data["size"] and 0 <= y < self.data["size"] and [x, y] not in self.data["walls"]

    def look(self):
        """See where you are, and which ways are free."""
        free = [way for way, (dx, dy) in STEPS.items() if self.free(self.at[0] + dx, self.at[1] + dy)]
        return f"at column {self.at[0]}, row {self.at[1]}; free: {', '.join(free) or 'nothing'}"

    def move(self, way: str, steps: int = 1):
        """Go north, south, west or east."""
        if way not in STEPS:
            return f"no way {way!r}: it is north, south, west or east"
        for gone in range(max(0, min(steps, self.data["size"]))):
            x, y = self.at[0] + STEPS[way][0], self.at[1] + STEPS[way][1]
            if not self.free(x, y):
                return f"stopped by a wall after {gone} steps, at column {self.at[0]}, row {self.at[1]}"
            self.at = (x, y)
        return f"now at column {self.at[0]}, row {self.at[1]}"

    def done(self):
        """Say that you are there."""
        return ToolResult(text="noted", end=SUBMITTED)

    def right(self):
        return list(self.at) == self.data["goal"]


class Field(World):
    """Walk to a place; walls are in the way."""

    name, State = "field", FieldState
    limits = Limits(max_turns=40)

    def draw(self, rng, level):
        while True:
            size = rng.randint(7, 12)
            cells = [[x, y] for x in range(size) for y in range(size)]
            start, goal = rng.sample(cells, 2)
            walls = [cell for cell in rng.sample(cells, size * 2) if cell not in (start, goal)]
            data = {"size": size, "start": start, "goal": goal, "walls": sorted(walls)}
            way = walk(data)
            if way is not None and 2 * level + 2 <= len(way) <= 2 * level + 4:
                return (
                    f"You stand at column {start[0]}, row {start[1]} of a field of {size} by {size}, with walls. "
                    f"Go to column {goal[0]}, row {goal[1]}.",
                    data,
                )

    def route(self, data):
        return [("look", {}), *(("move", {"way": way}) for way in walk(data)), ("look", {}), ("done", {})]


def walk(data):
    """The shortest way, or None."""
    start, goal, walls = tuple(data["start"]), tuple(data["goal"]), {tuple(wall) for wall in data["walls"]}
    came, edge = {start: ()}, [start]
    while edge and goal not in came:
        x, y = edge.pop(0)
        for way, (dx, dy) in STEPS.items():
            there = (x + dx, y + dy)
            if there not in came and there not in walls and all(0 <= at < data["size"] for at in there):
                came[there] = (*came[(x, y)], way)
                edge.append(there)
    return came.get(goal)


# -- the letter --------------------------------------------------------------------------------------------------------


class LetterState(State):
    """The text as it stands."""

    offered = ("show", "set_line", "submit")

    def __init__(self, task):
        super().__init__(task)
        self.lines = list(self.data["lines"])

    def show(self):
        """Show the letter, each line behind its number."""
        return "\n".join(f"{number} {line}" for number, line in enumerate(self.lines, 1))

    def set_line(self, line: int, text: str):
        """Replace a line."""
        if not 1 <= line <= len(self.lines):
            return ToolResult(text=f"no line {line}: there are {len(self.lines)}", error=True)
        self.lines[line - 1] = text
        return f"line {line} is now {text[:60]!r}"

    def submit(self):
        """Hand the letter in."""
        return ToolResult(text="noted", end=SUBMITTED)

    def right(self):
        return self.lines == self.data["wanted"]


class Letter(World):
    """One word is to be replaced by another, wherever it stands."""

    name, State = "letter", LetterState

    def draw(self, rng, level):
        old, new, *others = rng.sample(WORDS, 26)
        lines = [others[start : start + 4] for start in range(0, 24, 4)]
        for place in rng.sample(range(len(lines)), level):
            lines[place][rng.randrange(4)] = old
        texts = [" ".join(line) for line in lines]
        wanted = [" ".join(new if word == old else word for word in line) for line in lines]
        return f"Write {new} where the letter says {old}.", {"lines": texts, "wanted": wanted, "old": old}

    def route(self, data):
        changed = [n for n, line in enumerate(data["lines"]) if line != data["wanted"][n]]
        edits = [("set_line", {"line": n + 1, "text": data["wanted"][n]}) for n in changed]
        return [("show", {}), *edits, ("submit", {})]
