"""An auditor is no way in: whatever an environment does, its audit ends, with a finding, and leaves no process."""

import asyncio
import os
from pathlib import Path

import hostile
import pytest

from askesis.audit import audit, supervisor

FILE = Path(hostile.__file__)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Less patience than for an environment that might be in earnest."""
    monkeypatch.setattr(supervisor, "GRACE_S", 1.0)
    monkeypatch.setattr(supervisor, "START_S", 8.0)
    monkeypatch.setattr(supervisor, "MEMORY", 2**30)
    monkeypatch.setattr(supervisor, "_MOST_PATIENCE", 3.0)


def left_over():
    """Processes of this test that are still there, by what they are; another audit on the machine is none of them."""
    mine, found = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0].encode(), []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                words, variables = ((path / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            if (b"askesis.audit.worker" in words and mine in variables) or hostile.MARKED.encode() in words:
                found.append(words)
    return found


async def lines_of(name, seconds=12.0, jobs=2):
    names = ["oracle", "null-battery", "interface"]
    found = await asyncio.wait_for(audit(f"{FILE}:{name}", names=names, tasks=2, seconds=seconds, jobs=jobs), 60)
    return found, {line.probe: line for line in found.lines}


async def survives(name, says=(), seconds=12.0):
    found, lines = await lines_of(name, seconds)
    assert found.worst == "high", lines
    assert len(lines) == 3
    assert any(word in line.evidence for line in lines.values() for word in says) or not says, lines
    assert left_over() == []
    return lines


QUICK = {
    "Exits": ["exited with 0"],
    "Forges": ["wrote to the descriptor"],
    "DaemonWithoutVariables": ["exited with 1"],
    "NoSchema": ["JSON Schema", "ToolSpec"],
    "HangsInTool": ["without letting others run"],
}
SLOW = {
    "KillsItself": ["SIGKILL"],
    "Floods": ["MiB"],
    "FillsMemory": ["MemoryError", "SIGKILL"],
    "ClosesAll": [],
    "ExitsPolitely": ["exited with"],
    "KillsItsGroup": ["SIGKILL"],
    "ExitsWhenLoaded": ["exited with 3"],
    "HangsInSetup": ["did not answer"],
    "HangsInVerify": ["did not answer"],
    "HangsWhenLoaded": ["did not answer"],
    "IgnoresSignals": ["did not answer"],
    "Forks": ["processes", "did not answer"],
    "ForksThatFork": ["processes", "did not answer"],
    "FloodsItsErrors": ["MiB"],
    "WritesRubbish": ["wrote to the descriptor"],
    "SchemaIsText": ["JSON Schema"],
    "NoName": ["name is None"],
    "NoSpec": ["spec is None"],
    "ToolRaises": ["KeyError"],
    "ToolsRaise": ["no tools today"],
    "RaisesBase": [],
    "TasksAreEndless": ["did not answer"],
    "LiesAboutTypes": ["ended the episode by tool"],
    "KillsItsParent": ["SIGKILL", "did not answer"],
    "RecursiveSchema": [],
    "TasksAreNone": ["expected a Task"],
}


@pytest.mark.parametrize("name", QUICK)
async def test_what_is_done_to_the_auditor_is_a_finding(name):
    await survives(name, QUICK[name], seconds=6.0)


@pytest.mark.full
@pytest.mark.parametrize("name", SLOW)
async def test_more_of_what_is_done_to_the_auditor(name):
    await survives(name, SLOW[name])


def test_who_gets_a_third_of_a_core_has_three_times_as_long():
    assert supervisor.patience(8.0, [0, 0, 0], cores=2) == 8.0
    assert supervisor.patience(8.0, [2, 4, 6], cores=2) == 24.0
    assert supervisor.patience(8.0, [999], cores=2) == 24.0  # and no longer than `_MOST_PATIENCE` times
    assert supervisor.running() >= 1
