"""What has been found while tasks are made, written down line by line, so that an interrupted run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from askesis.envs.repair.project.reading import Project
from askesis.types import ConfigError

_FREE = ("tasks", "pairs", "workers", "suite_s", "memory", "site")  # what may be otherwise when a run goes on


class Journal:
    """Beside the task file, as `NAME.part`."""

    def __init__(self, path: Path, kept: Mapping[str, Any]) -> None:
        self._path, self._begun = path, time.monotonic()
        self.baseline: dict[str, Any] | None = kept.get("baseline")
        self.flaky: set[str] = set(kept.get("flaky", ()))  # tests that failed on the project as it is
        self._verdicts: dict[str, tuple[str, dict[str, Any] | None]] = dict(kept.get("verdicts", {}))
        self.seconds = float(kept.get("seconds", 0.0))  # of earlier runs

    @classmethod
    def opened(cls, out: Path, project: Project, making: Mapping[str, Any]) -> Journal:
        """A new one, or the one that an interrupted run left.

        Raises `ConfigError` where that was of another project or of other options.
        """
        path = out.with_name(out.name + ".part")
        out.parent.mkdir(parents=True, exist_ok=True)
        options = {key: value for key, value in making.items() if key not in _FREE}
        head = json.loads(json.dumps({"digest": project.digest, "options": options, "format": 2}))
        if not path.is_file():
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return cls(path, {})
        kept: dict[str, Any] = {"verdicts": {}}
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                try:
                    one = json.loads(line)
                except ValueError:
                    break  # the line that was being written
                if number == 0 and one != head:
                    raise ConfigError(
                        f"{path} is what an interrupted run left, of another state of the project or with other "
                        "options; remove it to begin anew"
                    )
                kept["seconds"] = one.get("seconds", kept.get("seconds", 0.0))
                if "baseline" in one:
                    kept["baseline"] = one["baseline"]
                elif "flaky" in one:
                    kept.setdefault("flaky", []).extend(one["flaky"])
                elif "key" in one:
                    kept["verdicts"][one["key"]] = (one["verdict"], one["task"])
        return cls(path, kept)

    def verdict(self, key: str) -> tuple[str, dict[str, Any] | None] | None:
        """What became of a fault; None if that is not known yet."""
        return self._verdicts.get(key)

    def add(self, key: str, verdict: str, task: dict[str, Any] | None) -> None:
        """Write down what became of a fault."""
        self._verdicts[key] = (verdict, task)
        self._write({"key": key, "verdict": verdict, "task": task})

    def add_flaky(self, tests: Iterable[str]) -> None:
        """Write down tests that cannot be relied on."""
        new = sorted(set(tests) - self.flaky)
        if new:
            self.flaky |= set(new)
            self._write({"flaky": new})

    def keep_baseline(self, baseline: dict[str, Any]) -> None:
        """Write down what the project is like without faults."""
        self.baseline = baseline
        self._write({"baseline": baseline})

    def done(self) -> None:
        """The task file is there: this is needed no more."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        spent = round(self.seconds + time.monotonic() - self._begun, 1)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "seconds": spent}) + "\n")
