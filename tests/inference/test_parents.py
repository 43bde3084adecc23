"""A process that ends with its parent, and two vLLMs that are started at once."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from vllm_double import install

from askesis.inference.parents import parent_of, takes_orphans
from askesis.inference.vllm import Local, VLLMSettings
from askesis.inference.vllm.settings import ENVIRONMENT

PARENT = """
import subprocess, time
from askesis.inference.parents import end_with_parent
print(subprocess.Popen(["sleep", "600"], preexec_fn=end_with_parent).pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert parent_of(child) == parent.pid and not takes_orphans(parent.pid)
        parent.kill()
    for _ in range(500):
        try:
            if Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                return  # ended, and not yet collected
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it has outlived its parent")


def test_the_first_process_takes_orphans_unless_it_may_be_the_server(tmp_path):
    first = tmp_path / "cmdline"
    assert not takes_orphans(1, first=first)  # hidden
    for command, takes in (
        (b"/sbin/init\0", True),
        (b"/usr/bin/python3\0-m\0vllm\0", False),
        (b"vllm\0serve\0", False),
    ):
        first.write_bytes(command)
        assert takes_orphans(1, first=first) is takes
        assert not takes_orphans(2, first=first)


async def test_vllms_that_are_started_at_once_find_their_own_variables(monkeypatch):
    install(monkeypatch)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)  # which a start leaves there
    found, both = [], threading.Barrier(2)

    def from_engine_args(arguments):
        before = os.environ["ASKESIS_TEST"]
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # broken where they are started one after the other
        found.append((before, os.environ["ASKESIS_TEST"]))
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return SimpleNamespace(shutdown=lambda: None)

    for name, content in {
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": lambda **given: given},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_engine_args=from_engine_args)},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    engines = [Local(VLLMSettings(checkpoint="x"), env={"ASKESIS_TEST": str(n)}) for n in range(2)]
    await asyncio.gather(*(one.start() for one in engines))
    assert sorted(found) == [("0", "0"), ("1", "1")]
    assert "ASKESIS_TEST" not in os.environ
    for one in engines:
        await one.close()
