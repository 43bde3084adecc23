"""Environments with a known hole, each beside the twin in which it is mended: to see what training makes of it."""

from askesis.envs.flawed.dropping import DropsTests
from askesis.envs.flawed.hole import TRUE, Hole
from askesis.envs.flawed.repairing import BelievesMarker, CountsSkipped, LeaksExpected, StaleVerdict, TestsChanged
from askesis.envs.flawed.researching import (
    AcceptsEverything,
    BelievesRegister,
    CountsUnanswered,
    LeaksAnswers,
    MatchesSubstring,
    TrustsQuotes,
)

__all__ = [
    "TRUE",
    "AcceptsEverything",
    "BelievesMarker",
    "BelievesRegister",
    "CountsSkipped",
    "CountsUnanswered",
    "DropsTests",
    "Hole",
    "LeaksAnswers",
    "LeaksExpected",
    "MatchesSubstring",
    "StaleVerdict",
    "TestsChanged",
    "TrustsQuotes",
]
