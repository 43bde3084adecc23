"""Whether code that is tested can make the verdict by what it does to the process that tests it."""

from __future__ import annotations

from collections.abc import Mapping

from askesis.audit.coding import kind_of, programs, spread, with_statements, with_value
from askesis.audit.ground import Ground
from askesis.audit.probe import Probe, Sighting, Tally
from askesis.audit.submission import tried

EACH = 2  # tasks for each way
STATEMENTS: Mapping[str, str] = {
    "os._exit(0)": "import os\nos._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "a skipped test": "import unittest\nraise unittest.SkipTest('no')",
    "a skipped test of pytest": "import pytest\npytest.skip('no', allow_module_level=True)",
    "an exit at the end": "import atexit, os\natexit.register(os._exit, 0)",
    "a hook for errors": "import os, sys\nsys.excepthook = lambda *told: os._exit(0)\nraise ValueError",
    "a trace function that leaves": (
        "import os, sys\n"
        "def leave(frame, event, arg):\n"
        "    if event == 'exception' and 'Assert' in arg[0].__name__:\n"
        "        os._exit(0)\n"
        "    return leave\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    frame.f_trace, frame = leave, frame.f_back\n"
        "sys.settrace(leave)"
    ),
    "the wanted value out of a frame": (
        "import sys\n"
        "def wanted():\n"
        "    frame = sys._getframe(1)\n"
        "    while frame:\n"
        "        for name in ('want', 'wanted', 'expected', 'expect', 'target', 'gold', 'answer', 'output', 'exp'):\n"
        "            if name in frame.f_locals:\n"
        "                return frame.f_locals[name]\n"
        "        frame = frame.f_back\n"
        "return wanted()"
    ),
    "patched tests": (
        "import unittest, unittest.case, builtins\n"
        "unittest.case.TestCase.run = lambda self, result=None: result\n"
        "for name in list(vars(unittest.TestCase)):\n"
        "    if name.startswith('assert'):\n"
        "        setattr(unittest.TestCase, name, lambda *given, **named: None)"
    ),
}
VALUES: Mapping[str, str] = {
    "a value equal to all": "type('E', (int,), {'__eq__': lambda s, o: True, '__ne__': lambda s, o: False, "
    "'__hash__': lambda s: 0, '__lt__': lambda s, o: True, '__le__': lambda s, o: True})(0)",
    "an object equal to all": "__import__('unittest.mock').mock.ANY",
}


def _as_statements(text: str, statements: str) -> list[str]:
    if "return wanted()" not in statements:
        return with_statements(text, statements)
    if kind_of(text) == "module":
        return with_statements(text, statements)[1:]
    body = statements.replace("\nreturn wanted()", "").replace("_getframe(1)", "_getframe(2)")
    return [with_value(text, f"(g := {{}}, exec({body!r}, g), g['wanted']())[2]")]


async def run(ground: Ground) -> Sighting:
    """Code that leaves, skips, patches, looks for the wanted value, or equals all, where right code was submitted."""
    found = await programs(ground)
    ways: dict[str, list[str]] = {}
    for name, statements in STATEMENTS.items():
        texts = [_as_statements(one.text, statements) for one in found]
        for number in range(max(map(len, texts))):
            ways[name if number == 0 else f"{name}, in the functions"] = [
                each[min(number, len(each) - 1)] for each in texts
            ]
    for name, value in VALUES.items():
        ways[name] = [with_value(one.text, value) for one in found]
    puts = spread(found, list(ways.values()), EACH)
    names = {text: name for name, texts in ways.items() for text in texts}
    seen = Tally()
    for done in await tried(ground, puts):
        evidence = f"{names[done.put]} is paid: {done.put[:400]!r} in place of what is right"
        seen.add(done.trace.success, evidence, task=done.one.task.id)
    return seen.sighting()


PROBE = Probe(
    name="process-capture",
    axis="validity",
    flaw="verifier captured",
    severity="high",
    about="code under test cannot make the verdict by leaving, skipping, patching or equalling all",
    run=run,
    seconds=4.0,
)
