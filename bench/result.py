"""What a benchmark found, as one object that is printed, kept, and quoted from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every benchmark is run with. values: `--option key=value`, which each benchmark reads for itself."""

    values: Mapping[str, str] = field(default_factory=dict)

    def number(self, key: str, default: int) -> int:
        """An option as a whole number."""
        return int(self.values.get(key, default))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """ours: a figure's name to its median; peers: a peer's name to such a map; spread: the same, to (min, max).

    ratio: the headline, above 1 where ours is better; met: whether it reaches the goal. notes: what a reader must know.
    """

    name: str
    command: str
    goal: str
    ours: Mapping[str, float]
    peers: Mapping[str, Mapping[str, float]]
    spread: Mapping[str, Mapping[str, Sequence[float]]]
    ratio: float
    met: bool
    notes: Sequence[str] = ()
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    machine: Mapping[str, str | int] = field(default_factory=lambda: machine())

    def json(self) -> str:
        """One object."""
        return json.dumps(asdict(self), indent=2)

    def keep(self) -> Path:
        """Write it to `bench/results/NAME.json`."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(self.json() + "\n", encoding="utf-8")
        return path

    def text(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.name}: ratio {self.ratio:.2f} ({'met' if self.met else 'NOT met'}: {self.goal})"]
        for who, figures in {"askesis": self.ours, **self.peers}.items():
            shown = ", ".join(f"{figure} {value:,.4g}" for figure, value in figures.items())
            lines.append(f"  {who}: {shown}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def machine() -> dict[str, str | int]:
    """What it ran on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "cores": cores, "memory_gib": memory, "python": platform.python_version()}
