"""A run's folder: what lies where, and what state the run is in.

runs/<id>/recipe.toml      the recipe, defaults filled in
runs/<id>/status.json      running, finished, interrupted or failed; step, score; the process
runs/<id>/audit.json       what the environment's audit says, and what was made of that
runs/<id>/traces.db        traces and ledger (`rollout.TraceStore`)
runs/<id>/checkpoints/     step-N, each a Hugging Face folder with the trainer's state in it
runs/<id>/tensorboard/     scalars
runs/<id>/log              what was printed, with times
runs/<id>/metrics.jsonl    one object a step
runs/<id>/findings.jsonl   what monitors found in traces of training, one object each
runs/<id>/faults.jsonl     faults of the machinery that were put in on purpose, where the recipe asks for them
runs/<id>/evaluations/     one object each
runs/<id>/result.json      what came out
runs/<id>/report.html      the same, to look at
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from askesis.types import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, out: Path, name: str) -> RunFolder:
        """A new folder, called after the run and the second in which it began."""
        stem = f"{name or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
        for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
            try:
                (out / f"{stem}{suffix}").mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(f"cannot make a folder for the run in {out}: {error}") from error
            return cls(out / f"{stem}{suffix}")
        raise ConfigError(f"{out} holds a thousand runs called {stem}")

    @property
    def id(self) -> str:
        """The run's name on the command line."""
        return self.path.name

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def audit(self) -> Path:
        """What was decided at the audit's gate."""
        return self.path / "audit.json"

    @property
    def findings(self) -> Path:
        """What monitors found."""
        return self.path / "findings.jsonl"

    @property
    def traces(self) -> Path:
        """Traces and ledger."""
        return self.path / "traces.db"

    @property
    def checkpoints(self) -> Path:
        """A folder for each checkpoint."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def log(self) -> Path:
        """What was printed."""
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        """One JSON object a step; steps of an abandoned lineage are written again after it."""
        return self.path / "metrics.jsonl"

    @property
    def faults(self) -> Path:
        """What was put in on purpose."""
        return self.path / "faults.jsonl"

    @property
    def evaluations(self) -> Path:
        """One JSON file an evaluation."""
        return self.path / "evaluations"

    @property
    def result(self) -> Path:
        """What came out."""
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        """What came out, to look at."""
        return self.path / "report.html"

    def write_status(self, state: str, **more: Any) -> None:
        """Say what state the run is in; whole or not at all."""
        content = {"state": state, "pid": os.getpid(), "boot": _boot(), **more}
        write_whole(self.path / "status.json", json.dumps(content, indent=2) + "\n")

    def status(self) -> dict[str, Any]:
        """What the run last said; a run whose process is gone is `killed`."""
        try:
            status: dict[str, Any] = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"state": "unknown"}
        gone = status.get("boot") != _boot() or not Path(f"/proc/{status.get('pid')}").exists()
        return status | ({"state": "killed"} if status.get("state") == "running" and gone else {})


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a kill, finds the old content or the new."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def _boot() -> str:
    """This start of the machine: process ids mean nothing across two of them."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def runs_in(out: Path) -> Iterator[RunFolder]:
    """The runs below a folder, oldest first."""
    if out.is_dir():
        found = [path for path in out.iterdir() if (path / "recipe.toml").is_file()]
        yield from map(RunFolder, sorted(found, key=lambda path: (path / "recipe.toml").stat().st_mtime))


def find_run(name: str | Path, out: Path = Path("runs")) -> RunFolder:
    """A run by its folder, its id, or `latest`. Raises `ConfigError`."""
    if (Path(name) / "recipe.toml").is_file():
        return RunFolder(Path(name))
    known = {run.id: run for run in runs_in(out)}
    if str(name) == "latest" and known:
        return list(known.values())[-1]
    if str(name) in known:
        return known[str(name)]
    raise ConfigError(
        f"no run {str(name)!r} in {out.absolute()}{nearest(str(name), known)}; `askesis runs` lists those there are"
    )
