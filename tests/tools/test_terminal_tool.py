"""The terminal tool on a real sandbox: what an agent reads, and how it finds the end of a command."""

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from askesis.sandbox import SandboxPool
from askesis.tools.rendering import Screen, bounded, flat
from askesis.tools.terminal import LiveShell, terminal_tools, typed
from askesis.types import ConfigError, RunLimits

in_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    async with SandboxPool(size=3, limits=RunLimits(wall_s=60, memory=512 * 2**20)) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(pool):
    sandbox = await pool.acquire()
    yield sandbox
    await sandbox.close()


@pytest.fixture
def shell(sandbox):
    return LiveShell(sandbox)


@pytest.fixture
def run(shell):
    tool, _ = terminal_tools(shell, timeout_s=20)

    async def run(command, **args):
        return (await tool({"command": command, **args}, None)).text

    return run


@pytest.fixture
def keys(shell):
    _, tool = terminal_tools(shell)

    async def keys(**args):
        return (await tool(args, None)).text

    return keys


@in_loop
async def test_a_shell_keeps_its_state_and_tells_exit_codes(run):
    assert await run("cd /tmp; x=7; echo hi; false") == "hi\n[exit code 1]"
    assert await run("echo $? $x; pwd") == "1 7\n/tmp"
    assert await run("true") == "[no output]"
    assert await run("for i in 1 2; do\n  echo $i\ndone") == "1\n2"
    assert await run('cat <<E\nit\'s "$x" \\ é\tworld\nE') == 'it\'s "7" \\ é\tworld'
    assert "unexpected EOF" in await run("echo 'open")
    assert await run(f"x='{'z' * 9000}\n'; echo ${{#x}}") == "9001"
    assert "7331" not in await run("env; echo; export") and "PROMPT" not in await run("env")


@in_loop
async def test_the_tree_is_the_sandboxs_and_services_live_on(run, sandbox):
    assert (await run("python3 -m http.server 8123 --bind 127.0.0.1 > log 2>&1 &")).startswith("[1]")
    await sandbox.write("page", b"hello from outside")
    asked = "for i in $(seq 100); do curl -sf http://127.0.0.1:8123/page && break; sleep 0.1; done"
    assert await run(asked) == "hello from outside"
    assert b"GET /page" in await sandbox.read("log")
    assert "Running" in await run("jobs")


@in_loop
async def test_a_program_that_asks_is_answered_and_one_that_hangs_is_interrupted(run, keys):
    said = await run("read -p 'name? ' x; echo got $x", timeout=0.5)
    assert said == "name?\n[still running after 0.5 s]"
    assert (await run("echo no")).startswith("not run: \"read -p 'name? ' x; echo got $x\" is still running")
    assert (await keys(text="bob", key="enter")).endswith("got bob")
    assert "still running" in await run("while true; do :; done", timeout=0.3)
    assert await keys(key="ctrl-c", wait=10) == "^C\n[exit code 130]"
    assert "still running" in await run("sleep 0.5; echo late", timeout=0.1)
    assert await keys(wait=0.01) == "[still running]"
    assert await keys(wait=20) == "late"
    assert await run("echo next") == "next"
    await keys(text="half a com", key="ctrl-x", wait=0.01)
    assert await run("stty raw; echo whole") == "whole"
    assert await keys(text="sleep 1; echo typed", key="enter", wait=0.1) == "[still running]"
    assert "'sleep 1; echo typed' is still running" in await run("echo no")
    assert await keys(wait=20) == "typed"


@in_loop
async def test_floods_are_cut_and_say_so(run, keys):
    said = await run("seq 1 100000")
    assert said.startswith("1\n2\n3\n") and said.endswith("\n99999\n100000") and "left out ...]" in said
    assert len(said) < 4200
    assert "still running" in await run("yes", timeout=0.5)
    assert "[exit code 130]" in await keys(key="ctrl-c", wait=10)
    assert await run("echo fine") == "fine"


@in_loop
async def test_whoever_prints_a_prompt_of_his_own_ends_his_own_call_alone(run):
    forged = r"\033]7331;0;"
    assert await run(rf"printf 'a{forged}2\007'; sleep 0.3; echo b; false") == "a"
    assert (await run("sleep 0.5; echo mine; (exit 5)")).endswith("mine\n[exit code 5]")
    assert await run(rf"printf 'later{forged}99\007'; (exit 3)") == "later\n[exit code 3]"
    assert await run(rf"printf 'old{forged}1\007'; (exit 3)") == "old\n[exit code 3]"
    assert await run(r"printf 'begun\033]7331;'") == "begun"
    assert "still running" in await run("unset PROMPT_COMMAND", timeout=0.5)


@in_loop
async def test_a_shell_that_ends_is_told_and_replaced(run, shell, sandbox):
    ended = "[the shell has ended; the next command starts a new one]"
    assert await run("echo kept > file; exit 3") == f"exit\n{ended}"
    assert await run("cat file") == "kept"
    assert await run("kill -9 $$") == ended
    assert await run("echo here") == "here"
    small = LiveShell(sandbox, limits=RunLimits(memory=64 * 2**20, cpu_s=1, wall_s=60))
    tool, _ = terminal_tools(small, timeout_s=30)
    said = (await tool({"command": "while true; do :; done"}, None)).text
    assert said == "[the shell has ended by its cpu limit; the next command starts a new one]"
    await small.close()


@in_loop
async def test_the_window_has_a_size_and_screens_can_be_read(sandbox):
    shell = LiveShell(sandbox, screens=True, rows=8, columns=40)
    run, keys = terminal_tools(shell, timeout_s=20)
    assert (await run({"command": "stty size"}, None)).text == "8 40"
    await shell.resize(10, 60)
    assert (await run({"command": "stty size"}, None)).text == "10 60"
    paint = r"printf '\033[?1049h\033[2J\033[3;5Hthe middle\033[1;1Htop'; read x; printf '\033[?1049l'; echo gone"
    said = (await run({"command": paint, "timeout": 1}, None)).text
    assert said.splitlines()[:3] == ["top", "", "    the middle"] and "cursor is at line 1, column 4" in said
    assert (await keys({"key": "enter", "wait": 5}, None)).text.splitlines()[-1] == "gone"
    await shell.close()


@in_loop
async def test_senseless_options_are_named(sandbox):
    with pytest.raises(ConfigError, match="rows=1"):
        LiveShell(sandbox, rows=1)
    with pytest.raises(ConfigError, match="timeout_s"):
        terminal_tools(LiveShell(sandbox), timeout_s=90, longest_s=60)


RENDERED = {
    b"a\rb\r\n10%\r20%\r\n": "b\n20%\n",
    b"\x1b[31mred\x1b[0m \x1b]0;title\x07plain\x1b(B": "red plain",
    b"abc\b\bX": "aXc",
    b"long line\r\x1b[Kshort": "short",
    b"ab\x1b[5Cx": "ab     x",
    b"\x1b[999999999999999999999Cx": " " * 1000 + "x",
    b"a\tb\x00\x07\x7f\xff": "a\tb\ufffd",
    b"\x1b[2J\x1b[Hhome\x1b": "home",
}


@pytest.mark.parametrize("data", RENDERED)
def test_control_characters_become_what_they_show(data):
    assert flat(data) == RENDERED[data]


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([b"\x1b[", b"\x1b]", b"9", b";", b"K", b"x\r", b"\n"])).map(b"".join)
)
def test_whatever_comes_is_text_without_control_characters(data):
    shown = flat(data)
    assert all(character in "\n\t" or character >= " " for character in shown)
    screen = Screen(5, 20)
    screen.feed(b"\x1b[?1049h" + data)
    screen.text()


@given(st.text(max_size=500), st.integers(100, 300))
def test_what_is_cut_says_so_and_is_short(text, most):
    cut = bounded(text, most)
    assert cut == text if len(text) <= most else ("left out ...]" in cut and len(cut) <= most + 80)


@given(st.text(max_size=4000))
def test_no_typed_line_is_too_long_for_a_terminal_or_holds_a_key(command):
    for line in typed(command):
        assert len(line) < 4095 and line.endswith(b"\n")
        assert not any(byte < 32 or byte == 127 for byte in line[:-1])
