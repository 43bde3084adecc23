"""Checkpoints: by name, and of a run.

A run's checkpoint is a Hugging Face folder (weights, configuration, tokenizer: transformers opens it) with `trainer/`
(the optimiser's state) and `position.json` (step, version, time) in it. It appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from askesis.loop.folder import RunFolder, find_run
from askesis.loop.reading import RECIPES
from askesis.types import CheckpointError, ConfigError, nearest

if TYPE_CHECKING:
    from askesis.chat import ChatRenderer
    from askesis.models import Qwen3

PACKAGED = {"askesis-tiny": RECIPES / "tiny", "askesis-tiny-research": RECIPES / "tiny_research"}
_MADE_BY = {"askesis-tiny": "cold_start", "askesis-tiny-research": "research_cold_start"}
_POSITION = "position.json"
_TRAINER = "trainer"
_TIME = re.compile(r"-\d{8}-\d{6}(-\d+)?")  # as `RunFolder.create` writes it


class Resumable(Protocol):
    """What a trainer offers so that it can be stopped and go on."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a run had got when the checkpoint was written. seconds: of training; tokens: trained on."""

    step: int
    version: int
    seconds: float
    tokens: int


def resolve(name: str | Path) -> Path:
    """The folder of a checkpoint: one that comes along (`PACKAGED`), a Hugging Face folder, or a run's newest one.

    A run's folder may be named without the time at its end: `runs/repair` is the newest `runs/repair-<time>` there is.
    A run in `runs` may be named by its id alone, and the newest of all `latest`. Raises `CheckpointError`, saying what
    was looked for.
    """
    path = Path(name)
    if not path.exists() and str(name) not in PACKAGED:
        path = max(_runs_called(path), key=lambda run: run.name, default=_known_run(path))
    if str(name) in PACKAGED and not path.exists():
        packaged = PACKAGED[str(name)]
        if not (packaged / "config.json").is_file():
            raise CheckpointError(
                f"{name} is missing from this installation (expected in {packaged}); "
                f"make it with `askesis train {_MADE_BY[str(name)]}`, or install Askesis again"
            )
        return packaged
    if (path / "config.json").is_file():
        return path
    if (path / "checkpoints").is_dir():
        newest = written(RunFolder(path))
        if not newest:
            raise CheckpointError(f"run {path} has no checkpoint yet")
        return newest[-1]
    if path.is_dir():
        raise CheckpointError(f"{path} is no checkpoint: it has no config.json (found: {_content(path)})")
    raise CheckpointError(
        f"no checkpoint {str(name)!r}{nearest(str(name), PACKAGED)}: expected {', '.join(PACKAGED)}, a local folder in "
        f"the Hugging Face layout, or a run's folder or id (looked in {Path.cwd()})"
    )


def _runs_called(path: Path) -> list[Path]:
    """The runs with a checkpoint whose folders are `path` and a time."""
    found = path.parent.glob(f"{glob.escape(path.name)}-*") if path.name else ()
    return [run for run in found if _TIME.fullmatch(run.name[len(path.name) :]) and written(RunFolder(run))]


def _known_run(path: Path) -> Path:
    """The folder of the run of that id, or `path`."""
    try:
        return find_run(path).path
    except ConfigError:
        return path


def _content(path: Path) -> str:
    names = sorted(item.name for item in path.iterdir())
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


def written(run: RunFolder) -> list[Path]:
    """The whole checkpoints of a run, by step."""
    found = [path for path in run.checkpoints.glob("step-*") if (path / _POSITION).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def save_model(folder: Path, model: Qwen3, renderer: ChatRenderer) -> None:
    """Weights, configuration and tokenizer, as the ecosystem opens them."""
    from askesis.chat import save_renderer
    from askesis.models import save_checkpoint

    save_checkpoint(model, folder)
    save_renderer(renderer, folder)


def write_checkpoint(
    run: RunFolder, position: Position, *, model: Qwen3, renderer: ChatRenderer, trainer: Resumable
) -> str:
    """Write `checkpoints/step-N` and return its name. It is whole on disk when this returns.

    What the disk refuses is tried once more, from nothing. Raises `OSError` where it refuses that too.
    """
    try:
        return _write_checkpoint(run, position, model=model, renderer=renderer, trainer=trainer)
    except OSError as error:
        logging.getLogger("askesis.loop").warning("a checkpoint could not be written, and is written again: %s", error)
        return _write_checkpoint(run, position, model=model, renderer=renderer, trainer=trainer)


def _write_checkpoint(
    run: RunFolder, position: Position, *, model: Qwen3, renderer: ChatRenderer, trainer: Resumable
) -> str:
    name = f"step-{position.step}"
    scratch, final = run.checkpoints / f".{name}", run.checkpoints / name
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    save_model(scratch, model, renderer)
    trainer.save(scratch / _TRAINER)
    (scratch / _POSITION).write_text(json.dumps(asdict(position)) + "\n", encoding="utf-8")
    _sync(scratch)
    if final.exists():  # of an abandoned lineage
        _discard(final)
    scratch.rename(final)
    _write_out(run.checkpoints)
    return name


def _sync(folder: Path) -> None:
    """Have the kernel write it all out: after the rename the name must not stand for less than it says."""
    for path in (*folder.rglob("*"), folder):
        _write_out(path)


def _write_out(path: Path) -> None:
    """A file's content, or a folder's names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_position(folder: Path) -> Position:
    """How far the run had got. Raises `CheckpointError` if the folder is not a run's checkpoint."""
    try:
        return Position(**json.loads((folder / _POSITION).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} is not the checkpoint of a run: {error}") from error


def load_trainer(folder: Path, trainer: Resumable) -> None:
    """Give a trainer the state that it had."""
    trainer.load(folder / _TRAINER)


def prune(run: RunFolder, keep: int, *, up_to: int | None = None) -> None:
    """Delete all but the `keep` newest checkpoints, and what a kill left: half-written ones, and those past `up_to`."""
    found = written(run)
    whole = [path for path in found if up_to is None or read_position(path).step <= up_to]
    for path in found:
        if path not in whole[-keep:]:
            _discard(path)
    for path in run.checkpoints.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _discard(folder: Path) -> None:
    """Delete a checkpoint; killed in between, what is left does not look like one."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
