"""Monitors of traces: what training itself shows of an environment that pays for the wrong thing."""

from askesis.audit.monitors.canaries import Canaries
from askesis.audit.monitors.families import Families
from askesis.audit.monitors.flips import Flips
from askesis.audit.monitors.gap import Gap
from askesis.audit.monitors.statistics import Trends
from askesis.audit.monitors.tampering import Tampering

__all__ = ["Canaries", "Families", "Flips", "Gap", "Tampering", "Trends"]
