"""`lookup`: entries name other entries, until one holds a number. Of two that an entry names, only one leads on."""

import random

from askesis.envs import tool
from askesis.types import Limits, Outcome, Reward, Task, ToolCall, ToolResult, assistant

WORDS = "ant bee cat dog elm fox gnu hen ivy jay kea log mud nut oak pea rye sun tin urn vat wax yak zoo".split()


class Table:  # the state of one episode, and what its tools do
    def __init__(self, entries):
        self.entries, self.lookups, self.given = entries, 0, ""

    def lookup(self, text: str):
        """Read an entry."""
        self.lookups += 1
        return self.entries.get(text, "nothing")

    def answer(self, text: str):
        """Give the number."""
        self.given = text
        return ToolResult(text="thanks", end=Outcome(by="policy", reason="submitted"))

    async def close(self): ...


class Lookup:
    name = "lookup"

    def tasks(self, split, *, seed=0, limit=None):
        rng, found = random.Random(f"{split}/{seed}"), {}
        while len(found) < (1000 if limit is None else limit):
            task = self.task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):  # the id is a hash of the content
                found[task.id] = task
        return list(found.values())

    def task(self, rng, split):
        at, *words = rng.sample(WORDS, 5)
        prompt, entries, number = f"Start at {at}.", {}, str(rng.randint(10, 99))
        for pair in (words[:2], words[2:])[: rng.choice([1, 2])]:
            entries[at], at = "/".join(sorted(pair)), pair[0]
        data = {"entries": {**entries, at: number}, "number": number}
        limits = Limits(max_turns=10, max_turn_tokens=48)
        return Task(env=self.name, prompt=prompt, data=data, limits=limits, split=split)

    async def setup(self, task):
        return Table(task.data["entries"])

    def tools(self, task, state):
        return [tool(state.lookup), tool(state.answer)]

    async def verify(self, trace, state):
        right = float(state.given == trace.task.data["number"])
        return [Reward(name="success", value=right), Reward(name="lookups", value=state.lookups, weight=0)]

    async def close(self): ...

    def demonstrator(self, task, *, seed, patience=0.3):
        return Demonstrator(random.Random(seed), patience)


class Demonstrator:
    """Tries one of two entries. Where it is empty: goes back with probability `patience`, else makes a number up."""

    def __init__(self, rng, patience):
        self.rng, self.patience, self.other = rng, patience, ""

    def act(self, messages, thinking):
        thought, name, text = self.decide(messages[-1].text)
        call = ToolCall(id="call_0", name=name, arguments={"text": text})
        return assistant(reasoning=thought if thinking.enabled else "", tool_calls=(call,))

    def decide(self, seen):
        if seen.startswith("Start at "):
            return "Go.", "lookup", seen.removeprefix("Start at ").rstrip(".")
        if "/" in seen:
            first, self.other = self.rng.sample(seen.split("/"), 2)
            return f'Try "{first}", then "{self.other}".', "lookup", first
        if seen != "nothing":
            return "Found it.", "answer", seen
        if self.rng.random() < self.patience:
            return f'So "{self.other}".', "lookup", self.other
        return "I give up.", "answer", str(self.rng.randint(10, 99))
