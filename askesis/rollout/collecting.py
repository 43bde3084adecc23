"""The interpreter's collector of cycles, less eager while episodes are in flight.

It looks through what lives, and of ten thousand episodes nearly all of it does: with the usual thresholds half of the
time that a turn takes is spent on looking. Reference counts free what ends; what is left for the collector is little.
"""

from __future__ import annotations

import gc

_PATIENT = (100_000, 50, 20)  # objects until it looks at the youngest; in how many of its looks at each older ones


class Collector:
    """The process's one collector. Who wants it patient holds it, and lets it go again."""

    def __init__(self) -> None:
        self._holders = 0
        self._usual = (0, 0, 0)

    def hold(self) -> None:
        """Be patient, unless it is switched off or more patient already."""
        self._holders += 1
        if self._holders == 1:
            self._usual = gc.get_threshold()
            if 0 < self._usual[0] < _PATIENT[0]:
                gc.set_threshold(*_PATIENT)

    def let_go(self) -> None:
        """As before, when nobody holds it any more."""
        self._holders -= 1
        if self._holders == 0 and gc.get_threshold() == _PATIENT:
            gc.set_threshold(*self._usual)


COLLECTOR = Collector()
