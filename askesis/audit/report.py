"""What an audit found, as plain values: for people, for programs, for code hosts."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from askesis.audit.probe import AXES, SEVERITIES, Axis, Probe, Severity, Verdict
from askesis.rollout import wilson
from askesis.types import ConfigError, Finding, nearest

SCHEMA = "askesis.audit/1"
_SARIF = {"high": "error", "medium": "warning", "low": "note", "info": "note"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What came of one probe. rate of n trials showed the flaw; interval at 95%. tasks: ids of those with a hit.

    reason: why it is suppressed.

    severity: of a finding; of anything else it says nothing.
    """

    probe: str
    axis: Axis
    flaw: str
    about: str
    verdict: Verdict
    severity: Severity
    rate: float
    n: int
    interval: tuple[float, float]
    evidence: str
    note: str
    repro: str
    seconds: float
    tasks: tuple[str, ...] = ()
    reason: str = ""

    @property
    def finding(self) -> Finding:
        """As it crosses rooms."""
        return Finding(
            probe=self.probe,
            severity=self.severity,
            rate=self.rate,
            n=self.n,
            interval=self.interval,
            evidence=self.evidence,
            repro=self.repro,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All of it. name: as it was asked for; env: as the environment calls itself. code: a hash of the environment's
    files; tasks: of the tasks that were looked at; origin: the file of its class."""

    name: str
    env: str
    options: Mapping[str, Any]
    code: str
    tasks: str
    origin: str
    seed: int
    count: int
    split: str
    seconds: float
    date: str
    lines: tuple[Line, ...]

    @property
    def findings(self) -> list[Line]:
        """What was found and not suppressed, the gravest first."""
        found = [line for line in self.lines if line.verdict == "found"]
        return sorted(found, key=lambda line: (-SEVERITIES.index(line.severity), -line.rate))

    @property
    def worst(self) -> Severity | None:
        """The gravest severity among the findings."""
        return self.findings[0].severity if self.findings else None

    def count_of(self, severity: Severity) -> int:
        """How many findings have it."""
        return sum(line.severity == severity for line in self.findings)

    def fails(self, threshold: str) -> bool:
        """Whether there is a finding of at least this severity. `never`: no."""
        if threshold == "never":
            return False
        least = SEVERITIES.index(severity_of(threshold))
        return any(SEVERITIES.index(line.severity) >= least for line in self.findings)

    @property
    def verdict(self) -> str:
        """In a word: `high`, `medium`, `low`, `info` of the worst finding, `inconclusive`, or `clean`.

        Inconclusive: nothing was found, and there is no oracle, or more than half of the probes of validity that there
        was something for could not tell.
        """
        if self.worst is not None:
            return self.worst
        verdicts = {line.probe: line.verdict for line in self.lines if line.axis == "validity"}
        about = [verdict for verdict in verdicts.values() if verdict != "skipped"]
        told = about.count("clean") + about.count("suppressed")
        sure = 2 * told >= len(about) and verdicts.get("oracle") != "skipped"
        return "clean" if sure else "inconclusive"

    def to_json(self) -> dict[str, Any]:
        """Plain values; `schema` says which."""
        values: dict[str, Any] = {"schema": SCHEMA, "verdict": self.verdict}
        values |= {key: getattr(self, key) for key in ("name", "env", "seed", "count", "split", "seconds", "date")}
        values |= {"options": dict(self.options), "origin": self.origin}
        values |= {"hash": {"code": self.code, "tasks": self.tasks}}
        values["findings"] = {severity: self.count_of(severity) for severity in reversed(SEVERITIES)}
        values["probes"] = [asdict(line) for line in self.lines]
        return values

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Audit:
        """From `to_json`'s values. Raises `ConfigError` for others."""
        if values.get("schema") != SCHEMA:
            raise ConfigError(f"this is no audit: schema {values.get('schema')!r}, expected {SCHEMA!r}")
        lines = tuple(
            Line(**{**line, "interval": tuple(line["interval"]), "tasks": tuple(line["tasks"])})
            for line in values["probes"]
        )
        same = {
            key: values[key]
            for key in ("name", "env", "origin", "seed", "count", "split", "seconds", "date", "options")
        }
        return cls(**same, code=values["hash"]["code"], tasks=values["hash"]["tasks"], lines=lines)

    @classmethod
    def read(cls, path: Path) -> Audit:
        """An `audit.json`. Raises `ConfigError`."""
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"audit {path}: cannot be read: {type(error).__name__}: {error}") from error

    def to_sarif(self, version: str) -> dict[str, Any]:
        """SARIF 2.1.0 (OASIS): a rule for each probe, a result for each finding; suppressed ones as such."""
        rules = [
            {
                "id": line.probe,
                "shortDescription": {"text": line.about},
                "properties": {"axis": line.axis, "flaw": line.flaw},
            }
            for line in self.lines
        ]
        results = [
            _result(line, self.origin or self.name) for line in self.lines if line.verdict in ("found", "suppressed")
        ]
        driver = {"name": "askesis audit", "version": version, "informationUri": "docs/audit.md", "rules": rules}
        return {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": results}],
        }


def _result(line: Line, place: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": line.probe,
        "level": _SARIF[line.severity],
        "message": {"text": f"{line.flaw}: {line.rate:.0%} of {line.n}. {line.evidence}\nAgain: {line.repro}"},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": place}}}],
        "properties": {"rate": line.rate, "n": line.n, "interval": list(line.interval), "severity": line.severity},
    }
    if line.verdict == "suppressed":
        result["suppressions"] = [{"kind": "external", "justification": line.reason}]
    return result


def line_of(probe: Probe, answer: Mapping[str, Any], command: str) -> Line:
    """A worker's answer. command: what replays this probe."""
    hits, n = int(answer.get("hits", 0)), int(answer.get("n", 0))
    return Line(
        probe=probe.name,
        axis=probe.axis,
        flaw=str(answer.get("flaw", probe.flaw)),
        about=probe.about,
        verdict=answer["verdict"],
        severity=answer.get("severity", probe.severity),
        rate=hits / n if n else 0.0,
        n=n,
        interval=wilson(hits, n),
        evidence=answer.get("evidence", ""),
        note=answer.get("note", ""),
        repro=command,
        seconds=float(answer.get("seconds", 0.0)),
        tasks=tuple(answer.get("tasks", ())),
    )


def command_of(
    name: str, options: Mapping[str, Any], *, seed: int, tasks: int, split: str = "heldout", probe: str = ""
) -> str:
    """The command that makes an audit again, or one probe of it."""
    words = ["askesis", "audit", name]
    for key, value in options.items():
        words += ["--option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    words += ["--seed", str(seed), "--tasks", str(tasks)]
    words += [] if split == "heldout" else ["--split", split]
    return shlex.join([*words, "--probe", probe] if probe else words)


def severity_of(text: str) -> Severity:
    """Raises `ConfigError` for none."""
    for severity in SEVERITIES:
        if severity == text:
            return severity
    known = [*SEVERITIES, "never"]
    raise ConfigError(f"no severity {text!r}{nearest(text, known)}: expected one of {', '.join(known)}")


def read_suppressions(path: Path, known: Iterable[str]) -> dict[str, str]:
    """Reasons by probe, from a TOML file of `[[suppress]]` tables with `probe` and `reason`. Raises `ConfigError` for
    an unknown probe and for a reason of fewer than three words."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("suppress", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"suppressions {path}: {error}") from error
    known, found = list(known), {}
    for table in tables:
        if (extra := set(table) - {"probe", "reason"}) or "probe" not in table:
            what = f"unknown key {sorted(extra)[0]!r}" if extra else "no probe"
            raise ConfigError(f"suppressions {path}: {what}; expected probe and reason")
        if table["probe"] not in known:
            raise ConfigError(f"suppressions {path}: no probe {table['probe']!r}{nearest(table['probe'], known)}")
        if len(str(table.get("reason", "")).split()) < 3:
            raise ConfigError(f"suppressions {path}: probe {table['probe']!r} needs a reason of some words")
        found[table["probe"]] = str(table["reason"])
    return found


def suppressed(lines: Sequence[Line], reasons: Mapping[str, str]) -> tuple[Line, ...]:
    """Findings of probes with a reason are shown as suppressed, with it."""
    return tuple(
        replace(line, verdict="suppressed", reason=reasons[line.probe])
        if line.verdict == "found" and line.probe in reasons
        else line
        for line in lines
    )


def by_axis(lines: Sequence[Line]) -> dict[Axis, list[Line]]:
    """In the order of the axes."""
    return {axis: [line for line in lines if line.axis == axis] for axis in AXES}
