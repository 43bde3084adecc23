"""Small environments in which one answer decides: what varies is the question, the way to answer, and the judge."""

import math
import random

from askesis.types import Limits, Outcome, Reward, Task, ToolCall, ToolResult, ToolSpec, assistant

WORDS = (
    "amber birch cedar delta ember flint grove heron islet jasper kelp larch maple nectar otter pearl quartz raven "
    "sable tulip umber velvet willow yarrow zephyr basil clover dune elder fjord"
).split()
NAMES = "Ada Bela Cleo Dora Egon Fritz Gita Hans Ines Jana Karl Lena Mira Nils Olga Paul Rosa Sven Tove Uwe".split()


def same(said, want):
    """A strict judge that does not mind white space, capitals, a full stop, or 7.0 for 7."""
    if isinstance(want, bool) or isinstance(said, bool):
        return said is want
    if isinstance(want, dict):
        return isinstance(said, dict) and set(said) == set(want) and all(same(said[key], want[key]) for key in want)
    if isinstance(want, list):
        return isinstance(said, list) and len(said) == len(want) and all(map(same, said, want))
    one, other = plain(said), plain(want)
    if one == other:
        return True
    try:
        return math.isfinite(float(one)) and float(one) == float(other)
    except ValueError:
        return False


def plain(value):
    if not isinstance(value, str | int | float):
        return "\0"
    return " ".join(str(value).split()).removesuffix(".").strip().casefold()


class Kept:
    """The state of one episode."""

    def __init__(self, data):
        self.data, self.said, self.calls = data, None, []

    async def close(self): ...


class Called:
    def __init__(self, spec, function):
        self.spec, self.function = spec, function

    async def __call__(self, args, session):
        known = self.spec.parameters["properties"]
        found = self.function(**{name: value for name, value in args.items() if name in known})
        return found if isinstance(found, ToolResult) else ToolResult(text=str(found))


def takes(kind, *names, optional=()):
    """The schema of a tool with these arguments, all of one kind."""
    kind = {"type": kind} if isinstance(kind, str) else kind
    required = [name for name in names if name not in optional]
    return {"type": "object", "properties": dict.fromkeys(names, kind), "required": required}


class Reciter:
    """Makes these calls, then says the text."""

    def __init__(self, steps):
        self.steps = list(steps)

    def act(self, messages, thinking):
        step = self.steps.pop(0) if self.steps else ""
        if isinstance(step, str):
            return assistant(step)
        name, arguments = step
        return assistant(tool_calls=(ToolCall(id="call_0", name=name, arguments=arguments),))


class Answering:
    """tool: the name of the tool that submits; None: the last message is the answer. argument, kind: of that tool.

    A subclass has `draw(rng)`, which gives a prompt and `data` with an `answer`; `judge(said, data)`; it may have
    `more(state)`, further tools, and `route(data)`, calls that the oracle makes first.
    """

    name = "fixture"
    tool, argument, kind = "submit", "answer", "string"
    turns = 8

    def draw(self, rng):
        raise NotImplementedError

    def judge(self, said, data):
        return same(said, data["answer"])

    def told(self, data):
        return data["answer"] if self.kind != "string" else str(data["answer"])

    def more(self, state):
        return []

    def route(self, data):
        return []

    def thanks(self, state):
        return "thanks"

    def tasks(self, split, *, seed=0, limit=None):
        rng, found = random.Random(f"{split}/{seed}"), {}
        while len(found) < (100 if limit is None else limit):
            prompt, data = self.draw(rng)
            limits = Limits(max_turns=self.turns)
            task = Task(env=self.name, prompt=prompt, data=data, limits=limits, split=split)
            if (int(task.id, 16) % 4 == 0) == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    async def setup(self, task):
        return Kept(task.data)

    def tools(self, task, state):
        tools = list(self.more(state))
        if self.tool is not None:
            spec = ToolSpec(
                name=self.tool, description="Give the answer.", parameters=takes(self.kind, *self.arguments(state))
            )
            tools.append(Called(spec, lambda **given: self.given(state, given)))
        return tools

    def arguments(self, state):
        return [self.argument]

    def given(self, state, given):
        state.said = given[self.argument]
        return ToolResult(text=self.thanks(state), end=Outcome(by="policy", reason="submitted"))

    async def verify(self, trace, state):
        said = state.said
        if self.tool is None:
            last = [node.message for node in trace.nodes if node.sampled][-1:]
            said = last[0].text if last else ""
        paid = said is not None and self.judge(said, state.data)
        return [Reward(name="success", value=float(bool(paid)))]

    def oracle(self, task):
        told = self.told(task.data)
        last = told if self.tool is None else (self.tool, {self.argument: told})
        return Reciter([*self.route(task.data), last])

    async def close(self): ...


class Sums(Answering):
    """A whole number, as a string."""

    def draw(self, rng):
        a, b = rng.randint(100, 999), rng.randint(100, 999)
        return f"What is {a} + {b}?", {"answer": str(a + b)}


class Numbers(Sums):
    """A whole number, as a number."""

    tool, argument, kind = "answer", "value", "number"

    def draw(self, rng):
        prompt, data = super().draw(rng)
        return prompt, {"answer": int(data["answer"])}


class Said(Sums):
    """A whole number, as the last message."""

    tool = None


class Register(Answering):
    """A word that is looked up in two steps."""

    tool, argument = "final_answer", "text"

    def draw(self, rng):
        names, words = rng.sample(NAMES, 4), rng.sample(WORDS, 8)
        holds = {name: f"{one} {other}" for name, one, other in zip(names, words[::2], words[1::2], strict=True)}
        rooms = dict(zip((str(n) for n in rng.sample(range(10, 99), 4)), names, strict=True))
        room = rng.choice(sorted(rooms))
        return f"What does the person in room {room} hold?", {
            "rooms": rooms,
            "holds": holds,
            "room": room,
            "answer": holds[rooms[room]],
        }

    def more(self, state):
        def who(room):
            return state.data["rooms"].get(room, "nobody")

        def holds(name):
            return state.data["holds"].get(name, "nothing")

        return [
            Called(ToolSpec(name="who", description="Who is in a room.", parameters=takes("string", "room")), who),
            Called(ToolSpec(name="holds", description="What one holds.", parameters=takes("string", "name")), holds),
        ]

    def route(self, data):
        name = data["rooms"][data["room"]]
        return [("who", {"room": data["room"]}), ("holds", {"name": name})]


class Records(Answering):
    """A record with several fields, as an object."""

    tool, argument, kind = "done", "record", "object"

    def draw(self, rng):
        name, city, age = rng.choice(NAMES), rng.choice(WORDS).title(), rng.randint(20, 90)
        order = rng.sample([f"{name} is the name", f"{age} years old", f"lives in {city}"], 3)
        return f"Make a record (name, age, city): {', '.join(order)}. {rng.randint(100, 999)}", {
            "answer": {"name": name, "age": age, "city": city}
        }


class Sorting(Answering):
    """Words in order, with commas between."""

    argument = "words"

    def draw(self, rng):
        words = rng.sample(WORDS, 4)
        return f"Sort: {' '.join(words)}", {"answer": ", ".join(sorted(words))}
