"""What the tests of a Harbor task folder say: run in a sandbox that no agent has touched, read from outside.

`/tests` and `/logs` lead into a folder that is empty at the beginning of every run and that no snapshot holds, so
nothing that an agent left is there. What `tests/test.sh` wrote to `/logs/verifier` is copied into the tree last of all,
to a place that nobody could know before; it is read when no process lives any more.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from askesis.envs.adapters.harbor_tasks import HarborTask, files_of
from askesis.types import RunLimits, RunResult, Sandbox

TESTS = {"/tests": "/tmp/tests", "/logs": "/tmp/logs"}
_MOST = 2**16  # bytes of a reward file
_SCRIPT = """
place=$1; workdir=$2
mkdir -p /tmp/tests /tmp/logs/verifier /tmp/logs/agent /tmp/logs/artifacts /tmp/clean || exit 120
tar -x --no-same-owner -C /tmp/tests || exit 120
cd -- "$workdir" || exit 121
/bin/bash /tests/test.sh < /dev/null > /logs/verifier/test-stdout.txt 2>&1
cd / && rm -rf -- "/home/agent/$place" && mkdir -- "/home/agent/$place" || exit 122
for file in reward.json reward.txt; do
    if [ -f "/logs/verifier/$file" ]; then head -c 65537 "/logs/verifier/$file" > "/home/agent/$place/$file"; fi
done
tail -c 600 /logs/verifier/test-stdout.txt
exit 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """reward: what is paid. others: further numbers, by name. wrong: why there is no reward; empty where there is one.

    said: the end of what the tests printed.
    """

    reward: float = 0.0
    others: Mapping[str, float] = field(default_factory=dict)
    wrong: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How reward files are read: the rewards that there can be, and which of several is paid."""

    lowest: float
    highest: float
    key: str

    def of(self, name: str, data: bytes) -> Verified:
        """What a reward file says."""
        if len(data) > _MOST:
            return Verified(wrong=f"{name} has more than {_MOST} bytes")
        try:
            text = data.decode("utf-8").strip()
            found = json.loads(text) if name.endswith(".json") else _number(text)
        except (ValueError, RecursionError):
            return Verified(wrong=f"{name} says {data[:80]!r}, expected {_expected(name)}")
        values = found if isinstance(found, dict) else {self.key: found}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return Verified(wrong=f"{name}: {key} is {value!r:.80}, expected a finite number")
        key = self.key if self.key in values or len(values) != 1 else next(iter(values))
        if key not in values:
            return Verified(wrong=f"{name} has {sorted(values)!r:.120} and no {key!r}; options.key says which is paid")
        if not self.lowest <= values[key] <= self.highest:
            return Verified(wrong=f"{name}: {values[key]!r} is not between {self.lowest:g} and {self.highest:g}")
        others = {name: float(value) for name, value in values.items() if name != key}
        return Verified(reward=float(values[key]), others=others)


def _number(text: str) -> float:
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _expected(name: str) -> str:
    return "a number, or an object of numbers" if name.endswith(".json") else "one number"


async def verdict_of(
    task: HarborTask, sandbox: Sandbox, verdict: Verdict, *, place: str, variables: Mapping[str, str], memory: int
) -> Verified:
    """Run the tests of `task` in `sandbox`, whose tree is the one to be judged, and read what they say.

    place: a name that is free in the tree. Raises `SandboxError`.
    """
    tests = task.folder / "tests"
    result = await sandbox.run(
        ["/bin/bash", "-p", "-c", _SCRIPT, "tests", place, task.workdir],
        stdin=packed({path: tests / path for path in files_of(tests)}),
        limits=RunLimits(
            wall_s=task.verifier_s,
            cpu_s=task.verifier_s,
            memory=memory,
            processes=128,
            file_size=2**27,
            output=2**14,
        ),
        # a home in which the agent wrote nothing: no user's site-packages, no settings of git or of a shell
        env={"PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp/clean", **variables},
    )
    if wrong := _stopped(result):
        return Verified(wrong=wrong, said=result.stdout)
    for name in ("reward.json", "reward.txt"):  # as Harbor looks for them
        try:
            data = await sandbox.read(f"{place}/{name}")
        except OSError:
            continue
        found = verdict.of(name, data)
        return Verified(reward=found.reward, others=found.others, wrong=found.wrong, said=result.stdout)
    return Verified(wrong="tests/test.sh left no reward.txt or reward.json in /logs/verifier", said=result.stdout)


def _stopped(result: RunResult) -> str:
    if result.ended != "exit":
        return f"the tests were stopped by their {result.ended} limit"
    if result.exit_code:
        return f"the tests could not be run (exit code {result.exit_code}): {result.stderr.strip()[-200:]}"
    return ""


def packed(files: Mapping[str, Path]) -> bytes:
    """An archive of files of the host by their place inside; the same at every time. A `.sh` can always be run."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, source in sorted(files.items()):
            data = source.read_bytes()
            member = tarfile.TarInfo(path)
            runs = path.endswith(".sh") or source.stat().st_mode & 0o100
            member.size, member.mode, member.mtime = len(data), 0o755 if runs else 0o644, 946684800
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
