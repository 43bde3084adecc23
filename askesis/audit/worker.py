"""A process in which probes run: `python -m askesis.audit.worker FD`.

It loads the environment, and then runs one probe for each line that it is told on stdin, and answers with a line on the
descriptor FD. What the environment prints goes elsewhere; what it does to this process, the supervisor sees.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from askesis.audit.ground import Ground
from askesis.audit.hashes import HASH, code_hash, origin, tasks_hash
from askesis.audit.probe import Inconclusive, Probe, Skipped, known_probes
from askesis.types import AskesisError

_EVIDENCE = 4000  # characters


async def run_probe(probe: Probe, ground: Ground, seconds: float = 60.0) -> Mapping[str, Any]:
    """What came of one probe, in this process."""
    begun = time.monotonic()
    ground.deadline = begun + 0.8 * seconds  # a probe stops by itself before it is stopped
    answer: dict[str, Any]
    try:
        seen = await asyncio.wait_for(probe.run(ground), seconds)
        answer = {
            "verdict": "found" if seen.hits else "clean",
            "hits": seen.hits,
            "n": seen.n,
            "severity": seen.severity or probe.severity,
            "evidence": seen.evidence[:_EVIDENCE],
            "note": seen.note[:_EVIDENCE],
            "tasks": seen.tasks,
        }
        if not seen.n:
            answer |= {"verdict": "inconclusive", "note": seen.note or "no trial was made"}
    except Skipped as why:
        answer = {"verdict": "skipped", "note": str(why)}
    except Inconclusive as why:
        answer = {"verdict": "inconclusive", "note": str(why)}
    except TimeoutError:
        answer = {"verdict": "inconclusive", "note": f"not finished within {seconds:.0f} s"}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        answer = {"verdict": "inconclusive", "note": f"the probe failed: {text}"[:_EVIDENCE]}
    return answer | {"probe": probe.name, "seconds": round(time.monotonic() - begun, 3)}


async def _serve(channel: int, told: Mapping[str, Any]) -> None:
    from askesis.envs import load_env

    key = told["key"]

    def say(answer: Mapping[str, Any]) -> None:
        os.write(channel, json.dumps({**answer, "key": key}).encode() + b"\n")

    try:
        env = load_env(told["env"], **told["options"])
        facts = {"ready": env.name, "code": code_hash(env), "origin": origin(env)}
        say(facts)
    except AskesisError as error:
        say({"failed": str(error)})
        return
    ground = Ground(
        env=env,
        seed=told["seed"],
        count=told["tasks"],
        first=told["split"],
        name=told["env"],
        options=told["options"],
        reference=told.get("reference", ""),
    )
    known = known_probes()
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            key = order["key"]
            if order["probe"] == HASH:
                say({"tasks": tasks_hash(ground.tasks)})
                continue
            say(await run_probe(known[order["probe"]], ground, order["seconds"]))
    finally:
        await env.close()


def main() -> None:
    """Until stdin ends."""
    told = json.loads(sys.stdin.readline())
    asyncio.run(_serve(int(sys.argv[1]), told))


if __name__ == "__main__":
    main()
