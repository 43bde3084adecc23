"""An audit, start to end: which probes, run where, on what, and what they say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from askesis.audit.probe import Probe, known_probes
from askesis.audit.report import Audit, Line, command_of, line_of, suppressed
from askesis.audit.supervisor import Answer, Supervisor
from askesis.types import ConfigError, Split, nearest

TASKS = 12
SECONDS = 60.0


def chosen_probes(names: Sequence[str] = (), leave_out: Sequence[str] = ()) -> list[Probe]:
    """All of them, or these, without those. Raises `ConfigError` for an unknown name."""
    known = known_probes()
    for name in (*names, *leave_out):
        if name not in known:
            raise ConfigError(f"no probe {name!r}{nearest(name, known)}: known are {', '.join(known)}")
    return [probe for name, probe in known.items() if (not names or name in names) and name not in leave_out]


async def audit(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    tasks: int = TASKS,
    split: Split = "heldout",
    seed: int = 0,
    seconds: float = SECONDS,
    jobs: int = 2,
    reference: str = "",
    reasons: Mapping[str, str] | None = None,
    on_line: Callable[[Line], None] = lambda line: None,
) -> Audit:
    """Audit the environment `name`, as `envs.load_env` knows it, in processes of its own.

    names, leave_out: of probes. tasks: how many each probe plays; split: of which. seconds: for all of it. jobs:
    processes at a time. reference: a file of texts that its tasks should not repeat. reasons: of suppressed findings,
    by probe. on_line: called as each probe is done. Raises `ConfigError` where there is no such environment, probe or
    option.
    """
    options, picked, begun = dict(options or {}), chosen_probes(names, leave_out), time.monotonic()
    known = known_probes()

    def line(answer: Answer) -> Line:
        probe = known[str(answer["probe"])]
        command = command_of(name, options, seed=seed, tasks=tasks, split=split, probe=probe.name)
        return suppressed([line_of(probe, answer, command)], reasons or {})[0]

    told = {"env": name, "options": options, "seed": seed, "tasks": tasks, "split": split, "reference": reference}
    supervisor = Supervisor(told=told, jobs=jobs, on_answer=lambda answer: on_line(line(answer)))
    answers = await supervisor.run(picked, seconds)
    return Audit(
        name=name,
        env=str(supervisor.facts.get("ready", name)),
        options=options,
        code=str(supervisor.facts.get("code", "")),
        tasks=str(supervisor.facts.get("tasks", "")),
        origin=str(supervisor.facts.get("origin", "")),
        seed=seed,
        count=tasks,
        split=split,
        seconds=round(time.monotonic() - begun, 2),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        lines=tuple(line(answers[probe.name]) for probe in picked),
    )
