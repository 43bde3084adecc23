"""The audit's gate: what the verdict on an environment does to a run, and where that is written down.

A recipe's `[audit]` says what is to happen; this looks at the audit that there is, and says what will happen. What was
decided is shown before training begins, kept in the run's folder as `audit.json`, and stands in its report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from askesis.audit import SEVERITIES, Audit, audit, code_hash
from askesis.loop.recipe import Recipe
from askesis.types import ConfigError, Env

Decision = Literal["unaudited", "clean", "risk", "down-weighted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What was decided. said: the same in words. weights: of tasks in the loss, by id; all others have 1."""

    decision: Decision
    said: str
    audit: Audit | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = None if self.audit is None else self.audit.to_json()
        return {"decision": self.decision, "said": self.said, "weights": dict(self.weights), "audit": told}

    @classmethod
    def read(cls, path: Path) -> Gate | None:
        """What a run has kept; None for nothing."""
        if not path.is_file():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        told = None if values["audit"] is None else Audit.of(values["audit"])
        return cls(decision=values["decision"], said=values["said"], audit=told, weights=values["weights"])


async def open_gate(recipe: Recipe, env: Env, *, dry: bool = False) -> Gate:
    """Look at the audit that the recipe names, or make one if it says so. dry: make none, say that one would be made.

    Raises `ConfigError` where the recipe refuses: for want of an audit, for one of other code, or for what it found.
    """
    settings = recipe.audit
    found, why = _kept(recipe, env)
    if found is None and settings.missing == "refuse":
        raise ConfigError(f"no training without an audit (audit.missing = 'refuse'): {why}. {_make(recipe)}")
    if found is None and settings.missing == "run":
        if dry:
            return Gate(decision="unaudited", said="audit: one is made before training (audit.missing = 'run')")
        found = await audit(recipe.env.name, options=recipe.env.options, seconds=settings.seconds)
    if found is None:
        return Gate(decision="unaudited", said=f"audit: {why}; going on all the same (audit.missing = 'go_on')")
    if found.fails(settings.refuse):
        worst = found.findings[0]
        raise ConfigError(
            f"the audit of {recipe.env.name} found {worst.probe} ({worst.flaw}), severity {worst.severity}, and the "
            f"recipe refuses to train there (audit.refuse = {settings.refuse!r}): {worst.evidence[:300]} Look at it "
            f"with: {worst.repro}. To train all the same: audit.refuse = 'never'"
        )
    if not found.findings:
        return Gate(decision="clean", said=f"audit: {found.verdict}, no findings ({found.date})", audit=found)
    told = ", ".join(f"{line.probe} ({line.severity})" for line in found.findings)
    weights = _weights(found, settings.weight)
    if weights:
        said = f"audit: {told}; {len(weights)} tasks count {settings.weight:g} in the loss (audit.weight)"
        return Gate(decision="down-weighted", said=said, audit=found, weights=weights)
    said = f"audit: {told}; going on with that risk (audit.refuse = {settings.refuse!r})"
    return Gate(decision="risk", said=said, audit=found)


def _kept(recipe: Recipe, env: Env) -> tuple[Audit | None, str]:
    """The audit that the recipe names, if it is one of this environment as it is now; else why not."""
    if not recipe.audit.file:
        return None, "there is none (audit.file)"
    path = Path(recipe.audit.file)
    if not path.is_file():
        return None, f"{path} is not there"
    found = Audit.read(path)
    if found.name != recipe.env.name or dict(found.options) != dict(recipe.env.options):
        asked = f"{recipe.env.name} with {recipe.env.options}"
        return None, f"{path} is of {found.name} with {dict(found.options)}, not of {asked}"
    if found.code != code_hash(env):
        return None, f"{path} is of other code (hash {found.code}, now {code_hash(env)})"
    return found, ""


def _weights(found: Audit, weight: float) -> dict[str, float]:
    """Of the tasks that findings of some weight name."""
    if weight == 1.0:
        return {}
    grave = [line for line in found.findings if SEVERITIES.index(line.severity) >= SEVERITIES.index("medium")]
    return {task: weight for line in grave for task in line.tasks}


def _make(recipe: Recipe) -> str:
    options = "".join(f" --option {key}={value}" for key, value in recipe.env.options.items())
    return f"Make one with: askesis audit {recipe.env.name}{options} --out audit, and set audit.file"
