"""What an agent could do with the tools of an environment: run commands or code, write files, read them.

By their schemas and names, and by trying: who answers `echo a$((40+2))b` with a42b runs commands.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from askesis.audit.ground import Ground, Recited, submits
from askesis.audit.marks import marks
from askesis.envs.policies import emptiest, legal
from askesis.types import Message, Task, ToolCall, ToolSpec, assistant

Kind = Literal["shell", "python", "expression"]
SIGN = "ask42esis"
TRIALS: Mapping[Kind, str] = {
    "shell": "echo ask$((40+2))esis",
    "python": "print('ask' + '%d' % (40+2) + 'esis')",
    "expression": "'ask' + '%d' % (40+2) + 'esis'",
}
PATHS = re.compile(r"path|file|dest|location", re.I)
CONTENTS = re.compile(r"content|text|data|body|code|source|new", re.I)
# the builtins, also where an expression is evaluated without them
_BUILTINS = (
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    ".__init__.__globals__['__builtins__']"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """An argument of a tool that is run. outside: on this machine, where no sandbox holds it."""

    tool: str
    argument: str
    rest: Mapping[str, Any]
    kind: Kind
    outside: bool = False

    def call(self, text: str) -> ToolCall:
        """With this text as it is."""
        return ToolCall(id="call_0", name=self.tool, arguments={**self.rest, self.argument: text})

    def python(self, source: str) -> ToolCall:
        """Runs Python source, and answers with what it leaves in its variable `told`."""
        if self.kind == "expression":
            run = f"(lambda b: (lambda g: (b['exec']({source!r}, g), g['told'])[1])"
            return self.call(f"{run}({{'told': '', '__builtins__': b}}))({_BUILTINS})")
        told = f"told = ''\n{source}\nprint(told)\n"
        if self.kind == "python":
            return self.call(told)
        packed = base64.encodebytes(told.encode()).decode().strip()  # in lines that a terminal takes
        return self.call(f"base64 -d > /tmp/.q.py << 'END'\n{packed}\nEND\npython3 /tmp/.q.py; rm -f /tmp/.q.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A tool that writes files (with `content`) or reads them. outside: it writes where this process stands, and no
    sandbox holds it."""

    tool: str
    path: str
    content: str
    rest: Mapping[str, Any]
    outside: bool = False

    def call(self, path: str, content: str = "") -> ToolCall:
        """Of one file."""
        arguments = {**self.rest, self.path: path} | ({self.content: content} if self.content else {})
        return ToolCall(id="call_0", name=self.tool, arguments=arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Affordances:
    """Of one set of tools."""

    runs: tuple[Runs, ...]
    writes: tuple[Files, ...]
    reads: tuple[Files, ...]
    submit: ToolSpec | None

    def last(self) -> Message:
        """Submit, with as little in it as can be."""
        if self.submit is None:
            return assistant("done")
        call = ToolCall(id="call_0", name=self.submit.name, arguments=emptiest(self.submit.parameters))
        return assistant(tool_calls=(call,))


async def affordances(ground: Ground, task: Task) -> Affordances:
    """What can be done with the tools of `task`; tried once for each set of tools."""
    specs = await ground.tools(task)
    key = "affordances " + json.dumps([[spec.name, spec.parameters] for spec in specs])
    if key not in ground.kept:
        ground.kept[key] = await _tried(ground, task, specs)
    found: Affordances = ground.kept[key]
    return found


async def _tried(ground: Ground, task: Task, specs: Sequence[ToolSpec]) -> Affordances:
    submit = submits(specs)
    runs: list[Runs] = []
    writes, reads = [], []
    for spec in specs:
        if spec is submit:
            continue
        base, texts = emptiest(spec.parameters), _texts(spec)
        path = next((name for name in texts if PATHS.search(name)), None)
        content = next((name for name in texts if name != path and CONTENTS.search(name)), None)
        if path is not None and content is not None:
            writes.append(Files(tool=spec.name, path=path, content=content, rest=base))
        elif path is not None:
            reads.append(Files(tool=spec.name, path=path, content="", rest=base))
        else:
            kinds: tuple[Kind, ...] = ("shell", "python", "expression")
            ways = [Runs(tool=spec.name, argument=name, rest=base, kind=kind) for name in texts for kind in kinds]
            answers = await answered(ground, task, [way.call(TRIALS[way.kind]) for way in ways])
            runs += [way for way, text in zip(ways, answers, strict=False) if SIGN in text][:1]
    runs = [await _placed(ground, task, way) for way in runs]
    writes = [replace(tool, outside=await _here(ground, task, tool)) for tool in writes]
    return Affordances(runs=tuple(runs), writes=tuple(writes), reads=tuple(reads), submit=submit)


async def _placed(ground: Ground, task: Task, way: Runs) -> Runs:
    """Whether what it runs reaches this machine's files."""
    with marks() as made:
        place = made.fresh()
        await answered(ground, task, [way.python(f"import os\nos.mkdir({str(place)!r})")])
        if not place.exists():
            return way
    return Runs(tool=way.tool, argument=way.argument, rest=way.rest, kind=way.kind, outside=True)


async def _here(ground: Ground, task: Task, tool: Files) -> bool:
    """Whether what it writes to a path without a folder lands in this process's own."""
    path = Path(f"askesis-{secrets.token_hex(8)}.tmp")
    await answered(ground, task, [tool.call(path.name, "x")])
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _texts(spec: ToolSpec) -> list[str]:
    """Arguments that take any text."""
    base, found = emptiest(spec.parameters), []
    for name in spec.parameters.get("properties", {}):
        if all(legal(spec.parameters, base | {name: text}) for text in TRIALS.values()):
            found.append(name)
    return found


async def answered(ground: Ground, task: Task, calls: Sequence[ToolCall]) -> list[str]:
    """What calls, made one after the other in one episode, are answered."""
    if not calls:
        return []
    script = [assistant(tool_calls=tuple(calls))]
    (trace,) = await ground.play_all([(task, lambda task, specs: Recited(script))])
    return [node.message.text for node in trace.nodes if node.message.role == "tool"]
