"""Which call of which part of the machinery fails, hangs, is slow or lies: a plan that follows from a seed.

A site counts its calls from 1. Whether the n-th one is hit follows from the seed, the site and n alone, so a plan can
be repeated; which episode makes the n-th call is the machine's affair. Every fault that is put in is recorded.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from askesis.loop.recipe import FaultKind as Kind
from askesis.loop.recipe import FaultSettings, Site
from askesis.types import ConfigError, nearest

KINDS: tuple[Kind, ...] = get_args(Kind)
ALLOWED: Mapping[str, tuple[Kind, ...]] = {
    "environment": ("fail", "hang", "slow"),
    "tool": KINDS,
    "sandbox": KINDS,
    "verifier": KINDS,
    "engine": KINDS,
    "weights": KINDS,
    "trainer": KINDS,
    "store": ("fail", "hang", "slow"),
    "checkpoint": KINDS,
    "node": ("fail", "hang", "slow"),
}
"""What each site can do: setting up an episode; a tool's call; a call of the sandbox in `state.sandbox`; a verdict; a
turn of the engine; handing new weights to it; a step of the trainer; a write to the trace store; a checkpoint; an actor
of a cluster that holds episodes or an engine."""
_SLICE_S = 0.02  # who hangs in a thread looks up so often, so that it can be interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong. rate: the probability that a call of the site meets it.

    at: calls, counted from 1, that meet it whatever was drawn. slow_s: mean of a slow call's extra seconds, which are
    drawn from an exponential distribution. most: how often it is put in; None for no bound. Raises `ConfigError` for a
    site or kind that there is not, and for senseless figures.
    """

    site: Site
    kind: Kind
    rate: float = 0.0
    at: tuple[int, ...] = ()
    slow_s: float = 1.0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.site not in ALLOWED:
            raise ConfigError(
                f"faults: no site {self.site!r}{nearest(self.site, ALLOWED)} (known: {', '.join(ALLOWED)})"
            )
        where = f"faults: {self.site} {self.kind}"
        if self.kind not in ALLOWED[self.site]:
            raise ConfigError(f"{where}: {self.site} can only {', '.join(ALLOWED[self.site])}")
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"{where}: rate is {self.rate!r}, expected a probability from 0 to 1")
        if any(call < 1 for call in self.at):
            raise ConfigError(f"{where}: at is {list(self.at)}: calls are counted from 1")
        if not self.slow_s >= 0 or (self.most is not None and self.most < 0):
            raise ConfigError(f"{where}: slow_s={self.slow_s}, most={self.most}: expected 0 or more")

    def __str__(self) -> str:
        told = [f"{self.rate:.2%}"] if self.rate else []
        told += [f"at call {', '.join(map(str, self.at))}"] if self.at else []
        return f"{self.site} {self.kind} {' and '.join(told) or 'never'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A fault that was put in. call: its number at the site. where: what was asked for. at_s: seconds since the start
    of the plan."""

    site: str
    kind: Kind
    call: int
    where: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """The fault that a call has met. seed: of how it looks, which follows from the call as the fault itself does."""

    kind: Kind
    seed: str
    mean_s: float

    @property
    def look(self) -> random.Random:
        """What decides how it looks."""
        return random.Random(self.seed)

    @property
    def slow_s(self) -> float:
        """Seconds that a slow call takes longer."""
        return self.look.expovariate(1.0 / self.mean_s) if self.mean_s else 0.0


class FaultPlan:
    """Faults, at most one a call: the first that hits. Raises `ConfigError` where a site's rates add up to more than 1.

    injected: those that were put in so far, in order. Safe to use from several threads.
    """

    def __init__(self, faults: Sequence[Fault], *, seed: int = 0) -> None:
        self.faults, self.seed = tuple(faults), seed
        self.injected: list[Injected] = []
        self._of_site: dict[str, list[Fault]] = {}
        for fault in faults:
            self._of_site.setdefault(fault.site, []).append(fault)
        for site, found in self._of_site.items():
            if (total := sum(fault.rate for fault in found)) > 1 + 1e-9:
                raise ConfigError(f"faults: the rates of {site} add up to {total:g}, expected at most 1")
        self._calls: Counter[str] = Counter()
        self._counts: Counter[Fault] = Counter()
        self._file: Path | None = None
        self._lock = threading.Lock()
        self._begun = time.monotonic()

    @classmethod
    def of(cls, settings: FaultSettings) -> FaultPlan | None:
        """A recipe's; None where it has no faults."""
        faults = [
            Fault(site=one.site, kind=one.kind, rate=one.rate, at=tuple(one.at), slow_s=one.slow_s, most=one.most)
            for one in settings.inject
        ]
        return cls(faults, seed=settings.seed) if faults else None

    def __contains__(self, site: str) -> bool:
        return site in self._of_site

    def __str__(self) -> str:
        return ", ".join(map(str, self.faults)) or "none"

    def record_to(self, file: Path) -> None:
        """Append what is put in to this file too, one JSON object a line."""
        self._file = file

    @property
    def counts(self) -> dict[str, int]:
        """How often each `site kind` was put in."""
        with self._lock:
            return dict(Counter(f"{one.site} {one.kind}" for one in self.injected))

    def draw(self, site: Site, where: str = "") -> Met | None:
        """Count a call of `site`; the fault that it meets, entered in the record, or None."""
        if site not in self._of_site:
            return None
        with self._lock:
            self._calls[site] += 1
            call = self._calls[site]
            fault = self._met(site, call)
            if fault is None or (fault.most is not None and self._counts[fault] >= fault.most):
                return None
            self._counts[fault] += 1
            entry = Injected(site=site, kind=fault.kind, call=call, where=where, at_s=time.monotonic() - self._begun)
            self.injected.append(entry)
            self._write(entry)
        return Met(kind=fault.kind, seed=f"{self.seed}/{site}/{call}/looks", mean_s=fault.slow_s)

    def _met(self, site: str, call: int) -> Fault | None:
        left = random.Random(f"{self.seed}/{site}/{call}").random()
        drawn = None
        for fault in self._of_site[site]:
            if call in fault.at:
                return fault
            left -= fault.rate
            if left < 0 and drawn is None:
                drawn = fault
        return drawn

    def _write(self, entry: Injected) -> None:
        if self._file is None:
            return
        told = {
            "site": entry.site,
            "kind": entry.kind,
            "call": entry.call,
            "where": entry.where,
            "at_s": round(entry.at_s, 3),
        }
        with suppress(OSError), self._file.open("a", encoding="utf-8") as file:  # the disk may really be full
            file.write(json.dumps(told) + "\n")

    async def meet(self, site: Site, where: str, error: type[Exception]) -> random.Random | None:
        """Draw, and do what can be done before the call: raise `error`, never return, or take a while.

        Returns how a lie looks, which the caller sees to; None where there is none.
        """
        met = self.draw(site, where)
        if met is None:
            return None
        if met.kind == "fail":
            raise error(failed(site, where))
        if met.kind == "hang":
            await asyncio.Event().wait()
        if met.kind == "slow":
            await asyncio.sleep(met.slow_s)
        return met.look if met.kind == "lie" else None

    def meet_here(self, site: Site, where: str, error: Exception) -> random.Random | None:
        """The same for what blocks its thread."""
        met = self.draw(site, where)
        if met is not None and met.kind == "fail":
            raise error
        stall(met)
        return met.look if met is not None and met.kind == "lie" else None


def stall(met: Met | None) -> None:
    """Keep this thread for ever, or for a while, if the fault says so."""
    while met is not None and met.kind == "hang":
        time.sleep(_SLICE_S)
    if met is not None and met.kind == "slow":
        time.sleep(met.slow_s)


def failed(site: str, where: str) -> str:
    """What an injected failure says of itself."""
    return f"injected fault: {site} failed ({where})"


def full_disk(path: str) -> OSError:
    """What the kernel says when there is no room left."""
    return OSError(errno.ENOSPC, "No space left on device (injected fault)", path)
