"""Faults of the machinery, put in on purpose: for tests and benchmarks of what becomes of them.

Not to be confused with `askesis.envs.perturbed`, whose faults are observations of the task. What is put in here is no
business of the policy's: it has to end in a typed infrastructure outcome, be retried, or stop the run in order.
"""

from askesis.loop.faults.acting import FaultyEngine, FaultyEnv, FaultySandbox, FaultyTool
from askesis.loop.faults.plan import ALLOWED, KINDS, Fault, FaultPlan, Injected

__all__ = [
    "ALLOWED",
    "KINDS",
    "Fault",
    "FaultPlan",
    "FaultyEngine",
    "FaultyEnv",
    "FaultySandbox",
    "FaultyTool",
    "Injected",
]
