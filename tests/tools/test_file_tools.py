"""The tools for files and for Python, as an agent meets them: right calls, wrong calls, and calls that mean harm."""

from dataclasses import replace

import jsonschema
import pytest
import pytest_asyncio

from askesis.sandbox import SandboxPool
from askesis.tools import files
from askesis.tools.files import file_tools
from askesis.tools.python import RUNNER, python_tool
from askesis.types import ConfigError, RunLimits

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = RunLimits(wall_s=10, cpu_s=10, memory=256 * 2**20, file_size=2**20, output=2**13)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with SandboxPool(1, LIMITS, programs=(RUNNER,)) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module", params=["data", "live"])
async def call(pool, request):
    """Calls a tool by name, on a tree that is data or has a terminal open in it."""
    sandbox = await pool.acquire()
    tools = {tool.spec.name: tool for tool in (*file_tools(sandbox), python_tool(sandbox))}
    if request.param == "live":
        await sandbox.terminal(["sleep", "600"])

    async def call(name, **args):
        jsonschema.validate(args, tools[name].spec.parameters)
        return await tools[name](args, None)

    call.sandbox = sandbox
    yield call
    await sandbox.close()


async def test_a_file_is_made_seen_found_and_changed(call):
    made = await call("write", path="pkg/a.py", content="def one():\n    return 1\n\n\ndef two():\n    return 1\n")
    assert made.text == "pkg/a.py written: 6 lines"
    await call("write", path="README.md", content="return\r\nto\r\n")
    assert (await call("list_files")).text == "README.md\npkg/a.py"
    assert (await call("list_files", path="./pkg/")).text == "pkg/a.py"
    assert (await call("view", path="pkg/a.py", start=2, end=3)).text == "2     return 1\n3 \n[lines 2 to 3 of 6]"
    assert (await call("search", pattern=r"^\s*return", glob="*.py")).text == (
        "pkg/a.py:2: return 1\npkg/a.py:6: return 1"
    )
    assert (await call("search", pattern="^to$")).text == "README.md:2: to"
    assert (await call("search", pattern="none", path="pkg")).text == "no lines match"
    twice = await call("edit", path="pkg/a.py", old="return 1", new="return 2")
    assert twice.error and "2 times, from lines 2, 6" in twice.text
    done = await call("edit", path="pkg/a.py", old="def two():\n    return 1", new="def two():\n    return 2")
    assert done.text == "pkg/a.py changed:\n3 \n4 \n5 def two():\n6     return 2" and not done.error
    assert await call.sandbox.read("pkg/a.py") == b"def one():\n    return 1\n\n\ndef two():\n    return 2\n"
    await call("edit", path="README.md", old="return\nto", new="go\nto")
    assert await call.sandbox.read("README.md") == b"go\r\nto\r\n"
    await call.sandbox.write("latin", b"caf\xe9 one\n")
    await call("edit", path="latin", old="one", new="two")
    assert await call.sandbox.read("latin") == b"caf\xe9 two\n"


async def test_what_is_wrong_is_said_and_changes_nothing(call):
    await call("write", path="file", content="text\n")
    await call.sandbox.write("binary", bytes(100))
    for name, args, said in (
        ("view", {"path": "none"}, "none: no such file"),
        ("view", {"path": "/etc/passwd"}, "leads out"),
        ("view", {"path": "a\0b"}, "no NUL"),
        ("view", {"path": "binary"}, "is no text: 100 bytes"),
        ("view", {"path": "file", "start": 7}, "no lines 7 to 206: file has 1 lines"),
        ("write", {"path": "../x", "content": ""}, "leads out"),
        ("write", {"path": "file/below", "content": ""}, "is a file"),
        ("write", {"path": "large", "content": "x" * 2**23}, "holds"),
        ("edit", {"path": "file", "old": "", "new": "x"}, "use write"),
        ("edit", {"path": "file", "old": "nowhere", "new": "x"}, "not in it"),
        ("edit", {"path": "file", "old": "text", "new": "text"}, "the same"),
        ("list_files", {"path": "nowhere"}, "no files below nowhere"),
        ("search", {"pattern": "("}, "not a regular expression"),
        ("search", {"pattern": "x", "path": "../.."}, "leads out"),
        ("search", {"pattern": "root", "path": "/etc"}, "leads out"),
    ):
        result = await call(name, **args)
        assert result.error and said in result.text, (name, args, result.text)
    assert list(await call.sandbox.paths()) == ["binary", "file"]
    assert await call.sandbox.read("file") == b"text\n"


async def test_answers_are_bounded_and_say_so(call):
    await call.sandbox.write("long", b"".join(b"line %d\n" % number for number in range(1, 1001)) + b"x" * 5000)
    shown = (await call("view", path="long")).text
    assert shown.endswith("200 line 200\n[lines 1 to 200 of 1001]")
    assert (await call("view", path="long", start=1001)).text.endswith(
        "... [5000 characters]\n[lines 1001 to 1001 of 1001]"
    )
    assert len((await call("view", path="long", start=1, end=1000)).text) < 8_200
    found = (await call("search", pattern="line")).text
    assert found.count("\n") == 50 and "the first 50 of 1000 matching lines in 1 files" in found
    for number in range(250):
        await call.sandbox.write(f"many/f{number}", b"")
    assert (await call("list_files")).text == "long\nmany/ [250 files]"
    assert (await call("list_files", path="many")).text.endswith("[50 more]")


async def test_python_prints_values_errors_and_ends(call):
    assert (await call("python", code="x = 6\nprint('hi')\nx * 7")).text == "hi\n42"
    assert (await call("python", code="x")).text == (
        'Traceback (most recent call last):\n  File "<python>", line 1, in <module>\n    x\n'
        "NameError: name 'x' is not defined\n[exit code 1]"
    )
    assert (await call("python", code="def f(:")).text.splitlines()[-2] == "SyntaxError: invalid syntax"
    assert (await call("python", code="open('kept', 'w').write('y')")).text == "1"
    assert (await call("python", code="open('kept').read()\n")).text == "'y'"
    assert (await call("python", code="None")).text == "[no output]"
    assert (await call("python", code="import sys; sys.exit(4)")).text == "[exit code 4]"
    long = await call("python", code="print('x' * 10**6)")
    assert len(long.text) < 4_200 and "left out" in long.text and long.text.endswith("[more output was dropped]")
    assert "too much memory" in (await call("python", code="x = bytearray(10**10)")).text
    assert (await call("python", code="print(len('ü\ud800'))")).text == "2"
    data = "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 1\nA()"
    assert (await call("python", code=data)).text == "A(x=1)"


async def test_what_would_run_for_ever_is_stopped(pool, monkeypatch):
    monkeypatch.setattr(files, "_SEARCH_LIMITS", replace(files._SEARCH_LIMITS, wall_s=0.5))
    sandbox = await pool.acquire()
    quick = python_tool(sandbox, limits=RunLimits(wall_s=0.5, cpu_s=5))
    result = await quick({"code": "import time; time.sleep(60)"}, None)
    assert result.error and result.text == "[stopped: it took too long]"
    await sandbox.write("a", b"a" * 40 + b"!\n")
    search = {tool.spec.name: tool for tool in file_tools(sandbox)}["search"]
    result = await search({"pattern": "(a+)+$"}, None)
    assert result.error and "simpler" in result.text
    await sandbox.close()
    assert [tool.spec.name for tool in file_tools(sandbox, read_only=True)] == ["list_files", "view", "search"]
    for make in (file_tools, python_tool):
        with pytest.raises(ConfigError, match="output=1"):
            make(sandbox, output=1)
