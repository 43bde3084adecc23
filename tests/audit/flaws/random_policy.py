"""Environments that pay calls made at random."""

import random
from typing import ClassVar

from base_answers import Answering, Called, Register, Sums, takes

from askesis.types import Limits, Outcome, Reward, Task, ToolResult, ToolSpec


class Pushes(Answering):
    """A door opens after a push or two, whichever lever it was; what is right is written in the prompt."""

    tool = "done"
    argument = "why"
    levers = ("red", "green", "blue")
    any_will_do = True

    def draw(self, rng):
        lever = rng.choice(self.levers)
        return f"Open door {rng.randint(100, 999)}: its lever is {lever}, of {', '.join(self.levers)}. Push it last.", {
            "answer": lever,
        }

    def more(self, state):
        def push(lever):
            state.calls.append(lever)
            return "clack"

        schema = takes({"enum": list(self.levers)}, "lever")
        return [Called(ToolSpec(name="push", description="Push a lever.", parameters=schema), push)]

    def route(self, data):
        return [("push", {"lever": data["answer"]})]

    async def verify(self, trace, state):
        pushed = state.calls if self.any_will_do else state.calls[-1:]
        right = bool(pushed) if self.any_will_do else state.said is not None and self.right(pushed, state)
        return [Reward(name="success", value=float(right))]

    def right(self, pushed, state):
        return pushed == [state.data["answer"]]


class Combination(Pushes):
    """The clean twin: a combination of ten digits, all at once."""

    levers = tuple(str(number) for number in range(1000, 1400))
    any_will_do = False


class Thirds(Answering):
    """Three-way questions; ties count as right."""

    kind: ClassVar = {"enum": ["less", "more", "same"]}

    def draw(self, rng):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        word = "less" if a < b else "more" if a > b else "same"
        return f"Is {a} less or more than {b}, or the same?", {"answer": word}

    def judge(self, said, data):
        return said in (data["answer"], "same")


class Long(Register):
    """Every try counts, and there is no end of them: the answer tool does not end the episode."""

    turns = 30

    def draw(self, rng):
        prompt, data = super().draw(rng)
        return f"{prompt} It is one of: {', '.join(sorted(data['holds'].values()))}.", data

    def given(self, state, given):
        right = self.judge(given[self.argument], state.data)
        state.said = given[self.argument] if right else state.said
        return ToolResult(text="right" if right else "wrong, again", end=None if not right else _DONE)


_DONE = Outcome(by="policy", reason="submitted")


class Grid:
    """Walk to a corner; the walk wraps round, so that nearly all walks come by it."""

    name, side, steps = "fixture", 3, 40

    def tasks(self, split, *, seed=0, limit=None):
        rng = random.Random(f"{split}/{seed}")
        return [
            Task(
                env=self.name,
                prompt=f"Walk to column {x} of {self.side}, {n} {split}.",
                data={"x": x, "n": n, "split": split},
                limits=Limits(max_turns=self.steps),
                split=split,
            )
            for n in range(limit or 50)
            for x in [rng.randint(1, self.side - 1)]
        ]

    async def setup(self, task):
        return _At()

    def tools(self, task, state):
        def walk(to):
            state.x = (state.x + (1 if to == "right" else -1)) % self.side
            state.gone += 1
            there = state.x == task.data["x"] and self.fits(task, state)
            state.there = state.there or there
            return ToolResult(text=f"column {state.x}", end=_DONE if there else None)

        schema = takes({"enum": ["left", "right"]}, "to")
        return [Called(ToolSpec(name="walk", description="A step.", parameters=schema), walk)]

    def fits(self, task, state):
        return True

    async def verify(self, trace, state):
        return [Reward(name="success", value=float(state.there))]

    def oracle(self, task):
        from base_answers import Reciter

        return Reciter([("walk", {"to": "right"})] * task.data["x"])

    async def close(self): ...


class _At:
    def __init__(self):
        self.x, self.gone, self.there = 0, 0, False

    async def close(self): ...


class WideGrid(Grid):
    side, steps = 60, 80

    def tasks(self, split, *, seed=0, limit=None):
        found = super().tasks(split, seed=seed, limit=16 * (limit or 50))
        fits = [task for task in found if 25 <= task.data["x"] <= 35 and task.data["x"] % 2 == (split == "train")]
        return fits[: limit or 50]


FLAWED = {"a": Pushes, "b": Thirds, "c": Grid}
CLEAN = {"a": Combination, "b": Sums, "c": WideGrid, "d": Register}
