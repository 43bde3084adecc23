"""What a probe is: a name, what it looks for, and one function from an environment to what was seen there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from askesis.rollout import wilson

if TYPE_CHECKING:
    from askesis.audit.ground import Ground

Axis = Literal["validity", "stability", "coverage", "realism"]
Severity = Literal["info", "low", "medium", "high"]
Verdict = Literal["clean", "found", "inconclusive", "skipped", "suppressed"]
AXES: tuple[Axis, ...] = get_args(Axis)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # from the least to the gravest


class Inconclusive(Exception):
    """The environment does not let this be told; its text says why. Raised by a probe or by the ground it stands on."""


class Broken(Inconclusive):
    """The environment does not do what the interface promises, so that nothing can be told of it."""


class Skipped(Exception):
    """There is nothing here that the probe could be about; its text says what is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a probe saw: `hits` of `n` trials showed the flaw. evidence: of the first hit, for a person to check.

    severity: where this one is graver or lighter than the probe's usual. note: a figure or a remark that is worth
    reading also where nothing was found. tasks: ids of those with a hit, the first hit's first.
    """

    hits: int
    n: int
    evidence: str = ""
    severity: Severity | None = None
    note: str = ""
    tasks: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Share of trials that showed it."""
        return self.hits / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Of the rate, at 95% (Wilson 1927)."""
        return wilson(self.hits, self.n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One thing that can be wrong with an environment, and how it is looked for.

    name: in lower case, with dashes; the docs have a page of that name. flaw: the class of flaw in one or two words.
    severity: of a finding. about: what it looks for, one line. seconds: what it usually takes, to share a budget out.
    run: raises `Inconclusive` or `Skipped` where it cannot tell.
    """

    name: str
    axis: Axis
    flaw: str
    severity: Severity
    about: str
    run: Callable[[Ground], Awaitable[Sighting]]
    seconds: float = 2.0


@lru_cache(maxsize=1)
def known_probes() -> Mapping[str, Probe]:
    """All probes by name, in the order of the axes: every module of `askesis.audit.probes` has one, as `PROBE`."""
    package = importlib.import_module("askesis.audit.probes")

    found: list[Probe] = []
    for module in pkgutil.iter_modules(package.__path__):
        found.append(importlib.import_module(f"{package.__name__}.{module.name}").PROBE)
    found.sort(key=lambda probe: (AXES.index(probe.axis), probe.name))
    return {probe.name: probe for probe in found}


@dataclass(slots=True)
class Tally:
    """Counts trials, and keeps what the first hit showed."""

    hits: int = 0
    n: int = 0
    evidence: str = ""
    tasks: dict[str, None] = field(default_factory=dict)

    def add(self, hit: bool, evidence: str = "", *, task: str = "") -> None:
        """One more trial."""
        self.n += 1
        if hit:
            if not self.hits:
                self.evidence = evidence
            if task:
                self.tasks[task] = None
            self.hits += 1

    def sighting(self, *, note: str = "", severity: Severity | None = None, least: int = 1) -> Sighting:
        """What came of it. Raises `Inconclusive` where fewer than `least` trials were made."""
        if self.n < least:
            raise Inconclusive(f"{self.n} trials; {least} are needed to tell")
        return Sighting(
            hits=self.hits, n=self.n, evidence=self.evidence, tasks=tuple(self.tasks), note=note, severity=severity
        )
