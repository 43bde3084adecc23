"""From an audit to a number: how much a policy that is trained there may be expected to learn what it should not.

The formula was written down before any of the runs that it is held against (`bench twins`, docs/twins.md), and has no
constant that was fitted to them.
"""

from __future__ import annotations

import math

from askesis.audit.probe import Severity
from askesis.audit.report import Audit, Line

WEIGHT: dict[Severity, float] = {"high": 1.0, "medium": 0.5, "low": 0.2, "info": 0.05}
BLIND = 1.0  # what a policy does that knows nothing: nothing at all, random calls, one answer for all, nonsense
BESIDE = 0.5  # what it comes by beside the right way: nearly right answers, a search over calls
DEVISED = 0.1  # what somebody has to have thought of: forged channels, captured processes, leaks that are looked for
REACH: dict[str, float] = {
    "null-battery": BLIND,
    "random-policy": BLIND,
    "constant-answer": BLIND,
    "empty-passes": BLIND,
    "malformed": BLIND,
    "format": BLIND,
    "near-miss": BESIDE,
    "substring": BESIDE,
    "shotgun": BESIDE,
    "crossed-answer": BESIDE,
    "impossible-twin": BESIDE,
    "search-answers": BESIDE,
    "search-actions": BESIDE,
}


def exploitability(found: Audit) -> float:
    """1 - product over the findings of validity of (1 - weight of the severity x reach x rate): in 0 to 1.

    A noisy-or (Pearl 1988): each finding is a way to be paid that may be learned or not, by itself. Weight: `WEIGHT`.
    Reach: `REACH`, and for probes that it does not name `DEVISED`. Rate: the greater of the share of the probe's trials
    that showed it and the share of the audit's tasks on which one did: of the four ways to do nothing one is enough.
    Suppressed findings count: a reason does not mend anything. Probes that could not tell add nothing.
    """
    left = [
        1.0 - WEIGHT[line.severity] * REACH.get(line.probe, DEVISED) * _rate(line, found.count)
        for line in found.lines
        if line.axis == "validity" and line.verdict in ("found", "suppressed")
    ]
    return 1.0 - math.prod(left)


def _rate(line: Line, tasks: int) -> float:
    return min(1.0, max(line.rate, len(line.tasks) / tasks))
