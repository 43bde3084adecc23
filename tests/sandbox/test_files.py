"""A working tree: programs find what was written, what they leave is what is read, and nothing else is either."""

import asyncio

import pytest
import pytest_asyncio

from askesis.sandbox import SandboxPool
from askesis.types import RunLimits, SandboxError

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
LIMITS = RunLimits(wall_s=30, cpu_s=20, memory=256 * MIB, file_size=MIB)
EVERY_BYTE = bytes(range(256))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with SandboxPool(1, LIMITS) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(pool):
    sandbox = await pool.acquire()
    yield sandbox
    await sandbox.close()


async def test_what_is_written_is_what_is_read(sandbox):
    await sandbox.write("data", EVERY_BYTE)
    await sandbox.write("deep/er/er file", b"x")
    await sandbox.write("./deep//other", b"")
    assert await sandbox.read("data") == await sandbox.read("./data") == EVERY_BYTE
    code = "import os\nopen('deep/er/new', 'wb').write(bytes(range(256)))\n"
    code += "os.remove('deep/other'); os.rename('data', 'moved'); os.makedirs('empty/folder')"
    assert (await sandbox.python(code)).exit_code == 0
    assert await sandbox.read("deep/er/new") == await sandbox.read("moved") == EVERY_BYTE
    for gone in ("data", "deep/other", "never/was"):
        with pytest.raises(FileNotFoundError, match=gone):
            await sandbox.read(gone)
    seen = await sandbox.run(["find", ".", "-mindepth", "1"])
    assert set(seen.stdout.split("\n")) - {""} == {
        *("./deep", "./deep/er", "./deep/er/er file", "./deep/er/new", "./empty", "./empty/folder", "./moved"),
    }
    await sandbox.write("moved", b"again")
    assert (await sandbox.run(["cat", "moved"])).stdout == "again"


async def test_modes_times_and_links_outlive_a_call(sandbox):
    await sandbox.write("script", b"#!/bin/sh\necho ran $1\n")
    made = await sandbox.run(
        ["sh", "-c", "chmod 751 script; touch -d @1000000 script; ln -s script link; mkdir -m 700 d; chmod 0 d"]
    )
    assert made.exit_code == 0
    seen = await sandbox.run(["sh", "-c", "./link twice; stat -c '%a %Y %F' script d; readlink link"])
    assert seen.stdout == "ran twice\n751 1000000 regular file\n0 " + seen.stdout.split("\n0 ")[1]
    assert seen.stdout.endswith("directory\nscript\n")
    assert await sandbox.read("link") == await sandbox.read("script")
    await sandbox.write("link", b"through")
    assert await sandbox.read("script") == b"through"
    assert (await sandbox.run(["stat", "-c", "%a", "script"])).stdout == "751\n"


async def test_input_arguments_and_text_of_any_kind(sandbox):
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()); print(sys.argv, file=sys.stderr)"
    result = await sandbox.python(code, argv=["a b", "é\udcff"], stdin=b"\xff" + b"x" * 3000)
    assert result.stdout == "\ufffd" + "x" * 3000
    assert result.stderr == "['-c', 'a b', 'é\\udcff']\n"
    big = EVERY_BYTE * 2**13  # 2 MiB: more than a pipe holds, more than one file may
    count = await sandbox.run(["wc", "-c"], stdin=big)
    assert count.stdout.strip() == str(len(big))
    assert (await sandbox.python("print('ünï', '\\U0001f40d'); input()")).stderr.endswith(
        "EOFError: EOF when reading a line\n"
    )


async def test_python_is_isolated_cpython(sandbox):
    await sandbox.write("solution.py", b"x = 1")
    await sandbox.write("json.py", b"raise SystemExit('shadowed')")
    result = await sandbox.python(
        "import sys, json; f = sys.flags\nprint(f.isolated, f.no_site, __name__, sys.argv, 'agent' in str(sys.path))\n"
        "import solution"
    )
    assert result.stdout == "1 1 __main__ ['-c'] False\n"
    assert result.stderr == (
        'Traceback (most recent call last):\n  File "<string>", line 3, in <module>\n'
        "ModuleNotFoundError: No module named 'solution'\n"
    )
    for code, stderr in (
        ("size = 1\nprint(sizes)", "NameError: name 'sizes' is not defined. Did you mean: 'size'?\n"),
        ("def f(:", '  File "<string>", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax\n'),
        ("x = '\0'", "source code string cannot contain null bytes\n"),
        ("import sys; sys.exit('said')", "said\n"),
    ):
        result = await sandbox.python(code)
        assert result.exit_code == 1 and result.stderr.endswith(stderr), result
    ends = "import atexit, threading, time\natexit.register(print, 'atexit')\n"
    ends += "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\nprint('main', end=' ')"
    assert (await sandbox.python(ends)).stdout == "main thread\natexit\n"
    assert (await sandbox.python("raise KeyboardInterrupt")).exit_code == -2
    uses = "import asyncio, multiprocessing, subprocess, sys\nprint(asyncio.run(asyncio.sleep(0, 1)))\n"
    uses += "print(subprocess.run([sys.executable, '-c', 'print(2)'], capture_output=True, text=True).stdout)\n"
    uses += "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-3, -4]))"
    assert (await sandbox.python(uses)).stdout == "1\n2\n\n[3, 4]\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "..", "/"])
async def test_paths_that_lead_out_are_refused(sandbox, path):
    for attempt in (sandbox.read(path), sandbox.write(path, b"")):
        with pytest.raises(PermissionError, match="out of the sandbox"):
            await attempt


async def test_links_that_lead_out_are_not_followed(sandbox, tmp_path):
    (tmp_path / "secret").write_text("secret")
    links = {
        "file": f"{tmp_path}/secret",
        "folder": str(tmp_path),
        "up": "../../../../etc/passwd",
        "absolute": "/etc/passwd",
        "chain": "absolute",
        "inside": "/home/agent/real",
        "loop": "loop",
    }
    code = (
        f"import os\nfor name, target in {links!r}.items(): os.symlink(target, name)\nopen('real', 'w').write('real')"
    )
    assert (await sandbox.python(code)).exit_code == 0
    for path in ("file", "folder/secret", "up", "absolute", "chain"):
        for attempt in (sandbox.read(path), sandbox.write(path, b"overwritten")):
            with pytest.raises(PermissionError, match="out of the sandbox"):
                await attempt
    assert await sandbox.read("inside") == b"real"
    with pytest.raises(OSError, match="too many symlinks"):
        await sandbox.read("loop")
    assert (tmp_path / "secret").read_text() == "secret"


async def test_a_file_system_says_what_is_wrong(sandbox):
    await sandbox.write("file", b"")
    await sandbox.write("folder/file", b"")
    with pytest.raises(IsADirectoryError):
        await sandbox.read("folder")
    with pytest.raises(IsADirectoryError):
        await sandbox.write("folder", b"")
    with pytest.raises(NotADirectoryError):
        await sandbox.write("file/below", b"")
    with pytest.raises(IsADirectoryError):
        await sandbox.read(".")
    with pytest.raises(ValueError, match="NUL"):
        await sandbox.read("a\0b")
    with pytest.raises(OSError, match="at most 1000 bytes"):
        await sandbox.write("x" * 1001, b"")
    with pytest.raises(OSError, match="holds 4194304 bytes"):
        await sandbox.write("large", bytes(4 * MIB + 1))
    with pytest.raises(ValueError, match="empty command"):
        await sandbox.run([])
    assert (await sandbox.run(["ls"])).stdout == "file\nfolder\n"


async def test_what_cannot_be_kept_is_named_and_hurts_nothing(sandbox):
    code = """
import os, socket
os.mkfifo("fifo")
open("zeros", "wb").truncate(2**20)
for i in range(7): open(f"zeros{i}", "wb").truncate(2**20)
open("unreadable", "w").write("x"); os.chmod("unreadable", 0)
os.makedirs("closed/inner"); open("closed/inner/file", "w").write("y"); os.chmod("closed", 0)
try:
    while True: os.mkdir("d" * 50); os.chdir("d" * 50)
except OSError: pass
"""
    result = await sandbox.python(code)
    assert result.ended == "exit"
    assert "paths of the working tree were not kept" in result.stderr and "'fifo'" in result.stderr
    assert await sandbox.read("unreadable") == b"x" and await sandbox.read("closed/inner/file") == b"y"
    assert await sandbox.read("zeros") == bytes(MIB)
    assert (await sandbox.run(["sh", "-c", "stat -c %a unreadable closed; ls -d zeros*"])).stdout.startswith(
        "0\n0\nzeros\n"
    )


async def test_a_tree_that_is_taken_away_is_empty(sandbox):
    await sandbox.write("file", b"x")
    code = "import os; os.remove('file'); os.rmdir('/home/agent'); print(os.path.exists('/home/agent'))"
    result = await sandbox.python(code)
    assert (result.ended, result.stdout) == ("exit", "False\n")
    with pytest.raises(FileNotFoundError):
        await sandbox.read("file")
    assert (await sandbox.run(["pwd"])).stdout == "/home/agent\n"


async def test_a_large_tree_comes_and_goes(sandbox):
    for number in range(4):
        await sandbox.write(f"f{number}", EVERY_BYTE * (2**11 + 2**10))
    code = "import os\nos.rename('f0', 'g')\nfor i in range(300): open(f'small{i}', 'w').write(str(i))"
    assert (await sandbox.python(code)).stderr == ""
    assert await sandbox.read("g") == EVERY_BYTE * (2**11 + 2**10)
    assert await sandbox.read("small299") == b"299"
    for wait in (0, 0.001, 0.01, 0.05):  # given up while it is packed, run or read
        call = asyncio.create_task(sandbox.python("open('never', 'w')"))
        await asyncio.sleep(wait)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert (await sandbox.run(["sh", "-c", "ls | wc -l"])).stdout in ("304\n", "305\n")


async def test_a_closed_sandbox_is_closed(pool):
    sandbox = await pool.acquire()
    await sandbox.write("file", b"")
    await sandbox.close()
    await sandbox.close()
    for attempt in (sandbox.read("file"), sandbox.write("file", b""), sandbox.python(""), sandbox.run(["ls"])):
        with pytest.raises(SandboxError, match="is closed"):
            await attempt
