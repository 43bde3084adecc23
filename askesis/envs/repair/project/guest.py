"""The program that runs a project's tests and functions in a sandbox. It is text, sent as source.

`JOBS` reads a table from its standard input and does one job after the other, each in a process of its own, forked
before anything of the project was imported. What a job found comes over a pipe and is printed as one line of JSON, with
how its process ended. `tests` runs pytest and reports each test; `calls` calls a function with plain values and reports
plain values. Neither is told what is wanted.

`SHOW` runs pytest for whoever plays: what it prints is what they read.
"""

from __future__ import annotations

PLAIN = r'''
import builtins, collections, datetime, decimal, fractions, itertools, json, sys

MOST_ITEMS, MOST_TEXT, MOST_DEPTH = 60, 4000, 6
PLACES = "builtins operator math itertools functools collections string re fractions decimal datetime".split()
ITERATORS = ("list_iterator", "tuple_iterator", "str_iterator", "str_ascii_iterator", "range_iterator")
BOXES = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", collections.deque: "deque"}

def plain(value, results=False, depth=0):
    """A value as tagged plain data; None for one that is not plain. results: iterators are run (a bit of them)."""
    kind = type(value)
    if value is None or kind is bool:
        return ["constant", value]
    if kind is int:
        return ["int", str(value)] if value.bit_length() < 2000 else None
    if kind in (float, complex):
        return [kind.__name__, repr(value)]
    if kind is str:
        return ["str", value] if len(value) <= MOST_TEXT and not any("\ud800" <= c <= "\udfff" for c in value) else None
    if kind is bytes:
        return ["bytes", value.hex()] if len(value) <= MOST_TEXT else None
    if depth > MOST_DEPTH:
        return None
    if kind in BOXES:
        if len(value) > MOST_ITEMS:
            return None
        items = [plain(item, results, depth + 1) for item in value]
        if any(item is None for item in items):
            return None
        return [BOXES[kind], sorted(items, key=json.dumps) if kind in (set, frozenset) else items]
    if kind is dict or (results and isinstance(value, dict)):
        if len(value) > MOST_ITEMS:
            return None
        items = [[plain(key, results, depth + 1), plain(one, results, depth + 1)] for key, one in value.items()]
        if any(None in pair for pair in items):
            return None
        return ["dict", sorted(items, key=json.dumps) if results else items]  # equal ones are the same in any order
    if kind is range:
        return ["range", [value.start, value.stop, value.step]]
    if kind is slice:
        parts = [plain(one, False, depth + 1) for one in (value.start, value.stop, value.step)]
        return None if None in parts else ["slice", parts]
    if kind is datetime.timedelta:
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    if kind in (datetime.date, datetime.datetime, datetime.time) and getattr(value, "tzinfo", None) is None:
        return [kind.__name__, value.isoformat()]
    if kind in (decimal.Decimal, fractions.Fraction):
        return [kind.__name__, str(value)]
    if callable(value) and hasattr(value, "__qualname__"):
        place = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
        place = str(place).lstrip("_")  # `operator.add` says that it is of `_operator`
        found = sys.modules.get(place) if place in PLACES else None
        for name in value.__qualname__.split("."):
            found = getattr(found, name, None)
        return ["ref", place + ":" + value.__qualname__] if found is value else None
    if results and hasattr(value, "__next__"):
        items = [plain(item, True, depth + 1) for item in itertools.islice(value, MOST_ITEMS)]
        return None if any(item is None for item in items) else ["iterator", items]
    if not results and kind.__name__ in ITERATORS:
        import copy
        items = [plain(item, False, depth + 1) for item in itertools.islice(copy.copy(value), MOST_ITEMS + 1)]
        return None if len(items) > MOST_ITEMS or any(item is None for item in items) else ["iterator", items]
    return None

def real(data):
    """The value that plain data stand for."""
    tag, content = data
    if tag in ("list", "tuple", "set", "frozenset", "deque", "iterator"):
        make = {"deque": collections.deque, "iterator": iter}.get(tag) or getattr(builtins, tag)
        return make([real(item) for item in content])
    if tag == "dict":
        return {real(key): real(value) for key, value in content}
    if tag in ("constant", "str"):
        return content
    if tag in ("int", "float", "complex"):
        return {"int": int, "float": float, "complex": complex}[tag](content)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "range":
        return range(*content)
    if tag == "slice":
        return slice(*map(real, content))
    if tag == "timedelta":
        return datetime.timedelta(*content)
    if tag in ("date", "datetime", "time"):
        return getattr(datetime, tag).fromisoformat(content)
    if tag in ("Decimal", "Fraction"):
        return {"Decimal": decimal.Decimal, "Fraction": fractions.Fraction}[tag](content)
    place, _, name = content.partition(":")
    found = __import__(place)
    for part in name.split("."):
        found = getattr(found, part)
    return found
'''

_COMMON = r"""
import json, os, sys
sys.dont_write_bytecode = True
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
asked = json.load(sys.stdin)
HERE = os.getcwd()
sys.path[:0] = [os.path.join(HERE, root) if root else HERE for root in asked["roots"]]
sys.path += asked["sites"]
OPTIONS = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", HERE, *asked["pytest_args"]]
"""

SHOW = (
    _COMMON
    + r"""
import pytest
sys.exit(pytest.main([*OPTIONS, "-q", "--tb=short", "--no-header", "-p", "no:warnings", *asked["ids"]]))
"""
)

JOBS = (
    PLAIN
    + _COMMON
    + r'''
import select, signal, threading, time

MOST_LOOKS = 20_000  # calls and lines of one function that are looked at in one test

SOURCES = {os.path.join(HERE, path): path for path in asked["sources"]}

class Watch:
    """A pytest plugin: what became of each test and, if asked, the lines that it ran and the calls of functions."""

    def __init__(self, job):
        self.tests, self.problems = {}, {}
        self.traced, self.recordable = job.get("trace", False), job.get("record", {})
        self.calls, self.current, self.lines, self.left = {}, "", set(), {}
        self.looks, self.many = {}, {}  # calls looked at in this test; tests that made more, by function

    def pytest_runtest_logreport(self, report):
        test = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        test["seconds"] += report.duration
        if report.outcome != "passed" and test["outcome"] != "failed":
            test["outcome"] = report.outcome if report.when == "call" or report.skipped else "error"
        if hasattr(report, "wasxfail"):
            test["outcome"] = "xfail"

    def pytest_collectreport(self, report):
        if report.failed:
            self.problems[report.nodeid] = str(report.longrepr)[-2000:]

    def pytest_exception_interact(self, node, call, report):
        if call.excinfo is not None and report.nodeid in self.tests or getattr(report, "when", "") == "call":
            frames = []
            for entry in call.excinfo.traceback:
                path = SOURCES.get(str(entry.path))
                if path is not None:
                    frames.append([path, entry.frame.code.raw.co_qualname])
            test = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
            test["frames"], test["said"] = frames[-20:], call.excinfo.exconly(tryshort=True)[:300]

    def around(self, item):
        self.current, self.lines, self.left, self.looks = item.nodeid, set(), {}, {}
        threading.settrace(self.called)
        sys.settrace(self.called)

    def after(self, item):
        sys.settrace(None)
        threading.settrace(None)
        lines = {}
        for path, line in self.lines:
            lines.setdefault(path, []).append(line)
        self.tests.setdefault(item.nodeid, {"outcome": "passed", "seconds": 0.0})["lines"] = lines

    def called(self, frame, event, argument):
        path = SOURCES.get(frame.f_code.co_filename)
        if path is None:
            return None
        first = self.recordable.get(path, {}).get(frame.f_code.co_qualname)
        if first is not None and frame.f_lineno < first:  # not a generator that goes on
            self.record(path, frame)
        left = self.left.get(frame.f_code)
        if left is None:
            self.lines.add((path, frame.f_lineno))
            left = self.left[frame.f_code] = [{line for _, _, line in frame.f_code.co_lines() if line}, MOST_LOOKS]
        left[1] -= 1
        if not left[0] or left[1] < 0:  # seen, or run so often that what is left is not run
            return None
        def ran(frame, event, argument):
            if event == "line":
                self.lines.add((path, frame.f_lineno))
                left[0].discard(frame.f_lineno)
                left[1] -= 1
                if not left[0] or left[1] < 0:
                    return None
            return ran
        return ran

    def record(self, path, frame):
        name = path + "|" + frame.f_code.co_qualname
        found = self.calls.setdefault(name, {})
        self.looks[name] = self.looks.get(name, 0) + 1
        if self.looks[name] > 200:
            self.many.setdefault(name, set()).add(self.current)  # it may have made any of them
            return
        sys.settrace(None)
        try:
            code, values = frame.f_code, frame.f_locals
            names = code.co_varnames
            count = code.co_argcount
            args = [values[name] for name in names[:count]]
            keywords = {name: values[name] for name in names[count : count + code.co_kwonlyargcount]}
            at = count + code.co_kwonlyargcount
            if code.co_flags & 4:
                args += values[names[at]]
                at += 1
            if code.co_flags & 8:
                keywords.update(values[names[at]])
            call = [plain(args)[1], plain(keywords)[1]]
            text = json.dumps(call)
            if len(text) <= 2000 and (text in found or len(found) < 60):
                found.setdefault(text, set()).add(self.current)
        except Exception:
            pass
        finally:
            sys.settrace(self.called)

def traced(watch):
    import pytest
    class Traced:
        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_protocol(self, item, nextitem):
            watch.around(item)
            yield
            watch.after(item)
    return Traced()

def tests(job):
    import pytest
    watch = Watch(job)
    plugins = [watch, *([traced(watch)] if watch.traced else [])]
    code = pytest.main([*OPTIONS, "-p", "no:terminal", "--assert=plain", *job["ids"]], plugins=plugins)
    calls = {}
    for name, found in watch.calls.items():
        many = watch.many.get(name, set())
        calls[name] = [[json.loads(text), sorted(made | many)] for text, made in found.items()]
    return {"code": int(code), "tests": watch.tests, "problems": watch.problems, "calls": calls}

CLOCKS = """time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time localtime gmtime ctime asctime
strftime""".split()

def changes(function):
    """Whether what a built-in function gives is another thing at another time: clocks, chance, the process."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    if isinstance(owner, type):
        return issubclass(owner, datetime.date) and name in ("now", "utcnow", "today")
    if name in ("random", "getrandbits"):
        return any(kind.__module__ == "_random" for kind in type(owner).__mro__)
    return name in ("urandom", "getpid") or (name in CLOCKS and getattr(function, "__module__", "") == "time")

class Late(BaseException):
    pass

def late(number, frame):
    raise Late

def calls(job):
    import importlib
    function = getattr(importlib.import_module(job["module"]), job["function"])
    changed = []
    def looked(frame, event, function):
        if event == "c_call" and changes(function):
            changed.append(function)
    signal.signal(signal.SIGPROF, late)  # time on a core, which a busy machine does not take away
    found = []
    for args, keywords in job["calls"]:
        signal.setitimer(signal.ITIMER_PROF, 1.0)
        changed.clear()
        sys.setprofile(looked if job.get("watch") else None)
        try:
            given = [real(one) for one in args], {real(name): real(one) for name, one in keywords}
            value = plain(function(*given[0], **given[1]), True) or ["other", ""]
        except Late:
            value = ["late", ""]
        except BaseException as error:
            value = ["error", type(error).__name__]
        finally:
            sys.setprofile(None)
            signal.setitimer(signal.ITIMER_PROF, 0)
        if changed:
            value = ["other", ""]
        found.append(value if len(json.dumps(value)) <= 6000 else ["other", ""])
    return {"values": found}

def child(job, pipe):
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    for path, text in job.get("files", {}).items():
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    found = {"tests": tests, "calls": calls}[job["kind"]](job)
    data = json.dumps(found).encode()
    while data:
        data = data[os.write(pipe, data) :]

def kept_waiting(pid):
    """Seconds for which a process stood in line for a core: the machine's time, and not its own."""
    try:
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0

def done(job):
    before = {}
    for path in job.get("files", {}):
        with open(path, "rb") as file:
            before[path] = file.read()
    ours, theirs = os.pipe()
    begun, pid = time.monotonic(), os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(ours)
            child(job, theirs)
            code = 0
        finally:
            os._exit(code)
    os.close(theirs)
    said, late = b"", False
    while not late:
        ready, _, _ = select.select([ours], [], [], 0.5)
        if ready:
            part = os.read(ours, 2**16)
            if not part or len(said) > 2**26:
                break
            said += part
        late = time.monotonic() - begun - kept_waiting(pid) > job["seconds"]
    for target in (-pid, pid):
        try:
            os.kill(target, signal.SIGKILL) if late or target < 0 else None
        except OSError:
            pass
    _, status = os.waitpid(pid, 0)
    os.close(ours)
    for path, content in before.items():
        with open(path, "wb") as file:
            file.write(content)
    ended = "late" if late else "exit" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 and said else "died"
    try:
        found = json.loads(said) if ended == "exit" else {}
    except ValueError:
        ended, found = "died", {}
    return {"job": job["number"], "ended": ended, "seconds": time.monotonic() - begun, "found": found}

if any(job["kind"] == "tests" for job in asked["jobs"]):
    import pytest
for number, job in enumerate(asked["jobs"]):
    job["number"] = number
    print(json.dumps(done(job)), flush=True)
'''
)
