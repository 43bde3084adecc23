"""Importing Askesis is silent, loads no torch, and touches nothing but Python's own files."""

import importlib.util
import subprocess
import sys

import pytest

WATCH = """
import sys
touched = []
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.remove", "os.rename", "os.system")):
        touched.append((event, args))
    elif event == "open" and not str(args[0]).endswith((".py", ".pyc")):
        touched.append((event, args))
sys.addaudithook(watch)
import {module}
assert "torch" not in sys.modules, "torch was imported"
assert {io} or not touched, touched
"""


def imported(module, io):
    code = WATCH.format(module=module, io=io)
    return subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_is_silent_and_without_io_or_torch():
    done = imported("askesis", io=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "room",
    [
        room
        for room in ("types", "chat", "sandbox", "envs", "agents", "rollout", "view", "cli")
        if importlib.util.find_spec(f"askesis.{room}")
    ],
)
def test_a_room_without_torch_loads_none(room):
    done = imported(f"askesis.{room}", io=True)  # what others' packages read at import is theirs
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
