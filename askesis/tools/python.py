"""Python: a piece of code runs in the sandbox, and what it printed comes back, with the value of its last expression.

Calls are stateless: names do not outlive a call, files do. So a call's answer follows from its code and the tree alone,
an episode holds no process between two calls, and nothing that one call broke breaks the next. Who wants a session that
goes on starts `python3` in a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from askesis.tools.rendering import bounded
from askesis.types import ConfigError, RunLimits, RunResult, Sandbox, Session, Tool, ToolResult, ToolSpec

# Runs in the sandbox as `__main__`; the code comes as its input. A pool that knows it (`programs`) need not compile it.
RUNNER = """
import sys
from _ast import Expr, Expression
code = sys.stdin.buffer.read().decode("utf-8", "replace")
def run(code, names):
    tree = compile(code, "<python>", "exec", 0x400, True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
    exec(compile(tree, "<python>", "exec", 0, True), names)
    if last is not None:
        value = eval(compile(Expression(last.value), "<python>", "eval", 0, True), names)
        if value is not None:
            print(repr(value))
names = {"__name__": "__main__", "__builtins__": __builtins__}
try:
    run(code, names)
except (SystemExit, KeyboardInterrupt, MemoryError):
    raise
except BaseException as error:
    import linecache, traceback
    linecache.cache["<python>"] = (len(code), None, code.splitlines(True), "<python>")
    sys.stdout.flush()
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != "<python>":
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    sys.exit(1)
"""
_SPEC = ToolSpec(
    name="python",
    description="Run Python code. Prints and the last expression's value are shown. Names are gone after the call.",
    parameters={
        "type": "object",
        "properties": {"code": {"type": "string"}},
        "required": ["code"],
        "additionalProperties": False,
    },
)


def python_tool(sandbox: Sandbox, *, limits: RunLimits | None = None, output: int = 4_000) -> Tool:
    """`python` on a sandbox's working tree. limits: of a call (None: the pool's). output: characters of an answer.

    Raises `ConfigError` for fewer than 200.
    """
    if output < 200:
        raise ConfigError(f"python: output={output}: expected 200 characters at least")
    return _Python(_SPEC, sandbox, limits, output)


@dataclass(frozen=True, slots=True)
class _Python:
    spec: ToolSpec
    sandbox: Sandbox
    limits: RunLimits | None
    output: int

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        code = str(args["code"]).encode("utf-8", "replace")
        result = await self.sandbox.python(RUNNER, stdin=code, limits=self.limits)
        return ToolResult(text=told(result, self.output), error=result.ended != "exit" or result.exit_code != 0)


_STOPPED = {
    "wall": "it took too long",
    "cpu": "it used too much CPU time",
    "memory": "it used too much memory",
    "killed": "it was killed",
    "stopped": "it was ended from outside",
}


def told(result: RunResult, output: int) -> str:
    """What an agent reads of a run: its output, and how it ended if not well."""
    parts = [part.rstrip("\n") for part in (result.stdout, result.stderr) if part.strip()]
    text = bounded("\n".join(parts), output)
    notes = ["[more output was dropped]"] if result.truncated else []
    if result.ended != "exit":
        notes.append(f"[stopped: {_STOPPED[result.ended]}]")
    elif result.exit_code:
        notes.append(f"[exit code {result.exit_code}]")
    return "\n".join([text, *notes] if text else notes) or "[no output]"
