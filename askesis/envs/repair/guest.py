"""The two programs that run inside the sandbox: the visible tests, and the calls of the hidden ones.

They are text, sent as source; nothing here is imported by the guest. Both take their cases as JSON on standard input.
"""

from __future__ import annotations

VISIBLE_TESTS = r'''
import io, json, sys

def last_line(error):
    """What CPython itself prints last for `error`, its suggestions included."""
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        sys.__excepthook__(type(error), error, error.__traceback__)
        return sys.stderr.getvalue().strip().splitlines()[-1]
    finally:
        sys.stderr = stderr

def raised(error):
    """The line of the file in which `error` arose, None if it arose elsewhere."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "solution.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line

def last(function):
    """The last line of a function of the file, None for anything else."""
    code = getattr(function, "__code__", None)
    if getattr(code, "co_filename", "") != "solution.py":
        return None
    return max(line for _, _, line in code.co_lines() if line)

def report(name, source, line, *findings):
    shown = source[line - 1 : line] if line else []
    print("\n".join([f"FAIL {name}", *(f"{line} {text.strip()}" for text in shown), *findings]))

def show(value):
    return repr(value) if not isinstance(value, str) else value

def main():
    tests, source = json.load(sys.stdin), []
    try:
        with open("solution.py", encoding="utf-8") as file:
            text = file.read()
        source = text.splitlines()
        scope = {"__name__": "solution"}
        exec(compile(text, "solution.py", "exec"), scope)
    except Exception as error:
        report("import", source, raised(error), last_line(error))
        return
    for test in tests:
        lines, failed = [], False
        for arguments, want in test["cases"]:
            call = f"{test['name']}({', '.join(map(repr, arguments))})"
            want = tuple(want) if isinstance(want, list) else want
            try:
                got = scope[test["name"]](*arguments)
            except Exception as error:
                report(test["name"], source, raised(error), last_line(error))
                return
            failed = failed or got != want or type(got) is not type(want)
            lines.append(f"{call} is {show(got)}, want {show(want)}")
        if failed:
            report(test["name"], source, last(scope[test["name"]]), *lines)
            return
    print(f"OK {len(tests)} pass")

main()
'''

HIDDEN_CALLS = r"""
import json, sys

def plain(value):
    if isinstance(value, bool) or value is None:
        return ["constant", value]
    if isinstance(value, int):
        return ["int", str(value)]
    if isinstance(value, tuple):
        return ["tuple", [plain(item) for item in value]]
    return ["other", type(value).__name__]

def main():
    calls = json.load(sys.stdin)
    with open("solution.py", encoding="utf-8") as file:
        scope = {"__name__": "solution"}
        exec(compile(file.read(), "solution.py", "exec"), scope)
    for name, arguments in calls:
        try:
            value = plain(scope[name](*arguments))
        except BaseException as error:
            value = ["error", type(error).__name__]
        print(json.dumps(value))

main()
"""


def runnable_tests(cases: str) -> str:
    """The visible tests as a program that needs nothing else. cases: JSON."""
    return f"import io, sys\nsys.stdin = io.StringIO({cases!r})\n{VISIBLE_TESTS}"


def plain(value: object) -> list[object]:
    """A value as the hidden calls print it: type-tagged plain data, so that `True` is not `1` and no `__eq__` runs."""
    if isinstance(value, bool) or value is None:
        return ["constant", value]
    if isinstance(value, int):
        return ["int", str(value)]
    if isinstance(value, tuple):
        return ["tuple", [plain(item) for item in value]]
    return ["other", type(value).__name__]
