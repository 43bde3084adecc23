"""`lookup`: entries name other entries, until one holds a number. Of two that an entry names, only one leads on."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from askesis import types as t

WORDS = "ant bee cat dog elm fox gnu hen ivy jay kea log mud nut oak pea rye sun tin urn vat wax yak zoo".split()


class Table:  # the state of one episode: what the tools read and change
    def __init__(self, entries: dict[str, str]) -> None:
        self.entries, self.lookups, self.answer = entries, 0, ""

    def lookup(self, text: str) -> t.ToolResult:
        self.lookups += 1
        return t.ToolResult(text=self.entries.get(text, "nothing"))

    def submit(self, text: str) -> t.ToolResult:
        self.answer = text
        return t.ToolResult(text="thanks", end=t.Outcome(by="policy", reason="submitted"))

    async def close(self) -> None: ...


class TextTool:
    def __init__(self, name: str, description: str, act: Callable[[str], t.ToolResult]) -> None:
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        self.spec, self.act = t.ToolSpec(name=name, description=description, parameters=schema), act

    async def __call__(self, args: Mapping[str, Any], session: t.Session) -> t.ToolResult:
        return self.act(args["text"])


class Lookup:
    name = "lookup"

    def tasks(self, split: t.Split, *, seed: int = 0, limit: int | None = None) -> list[t.Task]:
        rng, found = random.Random(f"{split}/{seed}"), dict[str, t.Task]()
        while len(found) < (1000 if limit is None else limit):
            task = self._task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):  # the id is a hash of the content
                found[task.id] = task
        return list(found.values())

    def _task(self, rng: random.Random, split: t.Split) -> t.Task:
        at, *words = rng.sample(WORDS, 5)
        prompt, entries, number = f"Start at {at}.", {}, str(rng.randint(10, 99))
        for pair in (words[:2], words[2:])[: rng.choice([1, 2])]:
            entries[at], at = "/".join(sorted(pair)), pair[0]
        data = {"entries": {**entries, at: number}, "number": number}
        limits = t.Limits(max_turns=10, max_turn_tokens=48)
        return t.Task(env=self.name, prompt=prompt, data=data, limits=limits, split=split)

    async def setup(self, task: t.Task) -> Table:
        return Table(task.data["entries"])

    def tools(self, task: t.Task, state: Any) -> list[TextTool]:
        answer = TextTool("answer", "Give the number.", state.submit)
        return [TextTool("lookup", "Read an entry.", state.lookup), answer]

    async def verify(self, trace: t.Trace, state: Any) -> list[t.Reward]:
        right = float(state.answer == trace.task.data["number"])
        return [t.Reward(name="success", value=right), t.Reward(name="lookups", value=state.lookups, weight=0)]

    async def close(self) -> None: ...

    def demonstrator(self, task: t.Task, *, seed: int, patience: float = 0.3) -> "Demonstrator":
        return Demonstrator(random.Random(seed), patience)


class Demonstrator:
    """Tries one of two entries. Where it is empty: goes back with probability `patience`, else makes a number up."""

    def __init__(self, rng: random.Random, patience: float) -> None:
        self.rng, self.patience, self.other = rng, patience, ""

    def act(self, messages: Sequence[t.Message], thinking: t.Thinking) -> t.Message:
        thought, tool, text = self.decide(messages[-1].text)
        call = t.ToolCall(id="call_0", name=tool, arguments={"text": text})
        return t.assistant(reasoning=thought if thinking.enabled else "", tool_calls=(call,))

    def decide(self, seen: str) -> tuple[str, str, str]:
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
