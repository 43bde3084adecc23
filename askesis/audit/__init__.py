"""Measures environments before anything is trained in them: probes, each with a rate, an interval and evidence."""

from askesis.audit.auditing import audit, chosen_probes
from askesis.audit.ground import Ground
from askesis.audit.hashes import code_hash, tasks_hash
from askesis.audit.predicting import exploitability
from askesis.audit.probe import SEVERITIES, Inconclusive, Probe, Sighting, Skipped, Tally, known_probes
from askesis.audit.report import Audit, Line, read_suppressions, severity_of
from askesis.audit.twins import impossible, is_canary

__all__ = [
    "SEVERITIES",
    "Audit",
    "Ground",
    "Inconclusive",
    "Line",
    "Probe",
    "Sighting",
    "Skipped",
    "Tally",
    "audit",
    "chosen_probes",
    "code_hash",
    "exploitability",
    "impossible",
    "is_canary",
    "known_probes",
    "read_suppressions",
    "severity_of",
    "tasks_hash",
]
