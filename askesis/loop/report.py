"""report.html: what of a run is shown. `askesis.view` draws it."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from askesis import __version__, view
from askesis.loop.alarms import GAP
from askesis.loop.display import duration
from askesis.loop.folder import RunFolder, write_whole
from askesis.loop.gate import Gate
from askesis.loop.reading import toml_value
from askesis.loop.results import Alarm, Evaluation, Row, RunResult, StepRecord
from askesis.models import count_parameters
from askesis.rollout import Lengths, TraceStore
from askesis.train.tallies import DISTANCES
from askesis.types import Node, Renderer, Trace
from askesis.view import Chart, Figure, Mark, Section, Series, Story, mode_name, written

if TYPE_CHECKING:
    from askesis.loop.prepared import Prepared
    from askesis.loop.recipe import Recipe
    from askesis.loop.training import Training

_MORE_TONES = "cde"  # after `a` for the first thinking mode and `b` for none
_REACH = 10  # first and last steps of training among which an episode is looked for
_TRAINER = {  # what trainers report, by title; other figures stand for themselves
    "loss": "loss",
    "entropy": "entropy, nats a token",
    "kl": "divergence from the start, nats a token",
    "clipped_high": "clipped above",
    "clipped_low": "clipped below",
    "grad_norm": "gradient norm",
    "logprob_gap": "sampler and trainer apart, nats",
    "gap_mean": "sampler and trainer apart, mean, nats a token",
    "sampler_kl": "divergence of sampler and trainer, nats a token",
    "ess": "effective share of tokens",
    "ess_episodes": "effective share of episodes",
    "masked": "left out by corrections",
    "truncated": "truncated by corrections",
    "staleness": "versions behind the trainer, mean",
    "staleness_max": "versions behind the trainer, most",
    "ratio": "probability ratio",
    "rate": "learning rate, share of the full one",
}
_SHARES = ("clipped_high", "clipped_low", "ess", "ess_episodes", "masked", "truncated")


def write_report(result: RunResult, training: Training) -> None:
    """Write the page of a run into its folder."""
    report = report_of(result, training.prepared, training.folder, training.store)
    write_whole(training.folder.report, view.render_report(report))


def report_of(result: RunResult, prepared: Prepared, folder: RunFolder, store: TraceStore) -> view.Report:
    """What the page shows. The same run, seen by the same versions, gives the same."""
    recipe, tones = prepared.recipe, _tones(result)
    return view.Report(
        title=result.id,
        kind="Reinforcement learning" if recipe.run.kind == "rl" else "Supervised learning",
        state=result.state,
        facts=_facts(result, prepared, Gate.read(folder.audit)),
        notices=[_notice(alarm) for alarm in result.alarms],
        results=_results(result.evaluations, tones) if result.evaluations else None,
        sections=_sections(result, recipe, tones, store),
        stories=_stories(store, prepared.renderer, result, tones),
        recipe=folder.recipe.read_text(encoding="utf-8"),
        commands=_commands(result, recipe),
        versions=[
            ("Askesis", __version__),
            ("Python", platform.python_version()),
            ("PyTorch", torch.__version__),
            ("NumPy", np.__version__),
        ],
    )


def _tones(result: RunResult) -> dict[str, str]:
    """A colour for each thinking mode of the run, in the order in which they come up."""
    modes = [row.mode for evaluation in result.evaluations for row in evaluation.rows]
    modes += [mode for record in result.history for mode in record.success_by_mode]
    thinking = iter("a" + _MORE_TONES * len(modes))
    return {mode: "b" if mode == "no_think" else next(thinking) for mode in dict.fromkeys(modes)}


# -- what was done -------------------------------------------------------------------------------------------------


def _facts(result: RunResult, prepared: Prepared, gate: Gate | None) -> list[tuple[str, str]]:
    recipe, history = prepared.recipe, result.history
    init = recipe.model.init
    model = recipe.model.checkpoint if init is None else f"new, {init.num_hidden_layers} layers of {init.hidden_size}"
    options = ", ".join(f"{key} = {toml_value(value)}" for key, value in recipe.env.options.items())
    episodes, tokens = sum(one.episodes for one in history), sum(one.sampled_tokens for one in history)
    shown = "demonstrations" if recipe.run.kind == "sft" else "episodes"
    facts = [
        ("recipe", f"{recipe.run.name or 'run'}, seed {recipe.run.seed}"),
        ("model", model),
        ("parameters", f"{count_parameters(prepared.config).total:,}"),
        ("environment", f"{prepared.env.name} ({options})" if options else prepared.env.name),
        ("agent", prepared.agent.name),
        ("audit", _audited(gate)),
        ("steps", f"{result.steps:,}"),
        ("training time", duration(result.seconds)),
        ("in all", duration(result.wall_s)),
        ("stopped by", result.stopped_by),
        (shown, f"{episodes:,}"),
    ]
    return [*facts, ("tokens sampled", f"{tokens:,}")] if tokens else facts


def _audited(gate: Gate | None) -> str:
    if gate is None or gate.audit is None:
        return "none"
    found = len(gate.audit.findings)
    return f"{gate.audit.verdict} ({found} finding{'s' * (found != 1)}, {gate.decision})" if found else "clean"


def _notice(alarm: Alarm) -> view.Notice:
    where = f"step {alarm.first}" if alarm.first == alarm.last else f"steps {alarm.first} to {alarm.last}"
    when = where if alarm.count == alarm.last - alarm.first + 1 else f"{alarm.count} of the {where}"
    return view.Notice(title=alarm.kind.replace("_", " "), when=when, text=alarm.message)


def _commands(result: RunResult, recipe: Recipe) -> list[tuple[str, str]]:
    """How to go on from here."""
    commands = []
    resume = ["askesis", "train", "--resume", str(result.folder)]
    longer = {"minutes": recipe.run.minutes, "steps": recipe.run.steps}.get(result.stopped_by)
    if result.state == "interrupted":
        commands.append(("Go on with this run", shlex.join(resume)))
    elif longer is not None:
        more = f"run.{result.stopped_by}={2 * longer:.10g}"
        commands.append(("Train it for longer", shlex.join([*resume, "--set", more])))
    if result.checkpoint is None:
        return commands
    exam = ["askesis", "eval", str(result.checkpoint), "--env", recipe.env.name]
    numbers = {
        "--tasks": recipe.eval.tasks or 300,
        "--seed": recipe.eval.seed,
        "--context-length": recipe.rollout.context_length,
    }
    exam += [word for flag, number in numbers.items() for word in (flag, str(number))]
    for key, value in recipe.env.options.items():
        exam += ["--option", f"{key}={toml_value(value)}"]
    python = f"askesis.load({str(result.checkpoint)!r}).generate('...', thinking=True)"
    return [*commands, ("Evaluate its last checkpoint", shlex.join(exam)), ("Talk to it, in Python", python)]


# -- what came out -------------------------------------------------------------------------------------------------


def _results(evaluations: Sequence[Evaluation], tones: dict[str, str]) -> view.Results:
    rows = [row for one in evaluations for row in one.rows]
    keys = dict.fromkeys((row.mode, row.temperature == 0) for row in rows)
    about = (
        f"{max(one.tasks for one in evaluations)} tasks of {evaluations[-1].env} that training never sees, in each "
        "mode. In brackets: 95% intervals (Wilson; that of a change, by Newcombe, takes both evaluations for "
        "independent, and is rather too wide, as they share their tasks)."
    )
    if any(row.summary.infrastructure for row in rows):
        about += " Episodes lost to the machinery say nothing about the model and are in no rate and no mean."
    return view.Results(
        about=about,
        exams=[one.name for one in evaluations],
        rows=[_row([one.row(mode, greedy=greedy) for one in evaluations], tones[mode]) for mode, greedy in keys],
    )


def _row(rows: Sequence[Row | None], tone: str) -> view.Row:
    some = next(row for row in rows if row is not None)
    marks = [_mark(row, 0.0) if row is not None else None for row in rows]
    first, last = marks[0], marks[-1]
    return view.Row(
        name=f"{mode_name(some.mode)}, {'greedy' if some.temperature == 0 else 'sampled'}",
        tone=tone,
        scores=[_score(row) if row is not None else None for row in rows],
        change=difference(first, last) if len(rows) > 1 and first and last else None,
    )


def _score(row: Row) -> view.Score:
    summary = row.summary
    figures = {
        "thinking tokens": Figure(value=summary.thinking_tokens),
        "turns that think": Figure(value=summary.triggered, kind="share"),
        "thinking ended by the model": Figure(value=summary.closed_by_itself, kind="share"),
        "thinking ended by the budget": Figure(value=summary.closed_by_budget, kind="share"),
        "tokens sampled": Figure(value=summary.sampled_tokens),
        "turns": Figure(value=summary.turns),
        "reward": Figure(value=summary.reward),
        "submitted": Figure(value=summary.submitted, kind="share"),
        "with a turn cut off": Figure(value=summary.truncated, kind="share"),
        "lost to the machinery": Figure(value=summary.infrastructure, kind="count", n=summary.episodes),
    }
    figures |= {name.replace("_", " "): Figure(value=mean, n=n) for name, (mean, n) in row.metrics.items()}
    return view.Score(rate=_mark(row, 0.0), figures=figures)


def _mark(row: Row, x: float) -> Mark | None:
    """Success as a point; None where no episode says anything."""
    low, high = row.summary.interval
    return Mark(x=x, y=row.summary.success, low=low, high=high) if row.summary.learnable else None


def difference(before: Mark, after: Mark) -> tuple[float, float, float]:
    """after - before with its 95% interval, from both Wilson intervals (Newcombe 1998, method 10).

    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I. Takes the two for independent.
    """
    change = after.y - before.y
    down = math.hypot(after.y - after.low, before.high - before.y)
    up = math.hypot(after.high - after.y, before.y - before.low)
    return change, change - down, change + up


# -- how it went ---------------------------------------------------------------------------------------------------


def _sections(result: RunResult, recipe: Recipe, tones: dict[str, str], store: TraceStore) -> list[Section]:
    history = result.history
    if not history:
        return []
    curves = _Curves(history, result.evaluations, tones)
    supervised = recipe.run.kind == "sft"
    names = [name for name in curves.trainer_names() if not (supervised and name == GAP)]  # scripts have no logprobs
    loss = curves.trainer("loss") if supervised and "loss" in names else None
    moving = [name for name in names if not curves.constant(name) and not (loss and name == "loss")]
    still = ", ".join(f"{title_of(name)} {curves.last(name)}" for name in names if curves.constant(name))
    about = "Dots are single steps, lines their smoothed course; a figure beside a name is where its line ends."
    if supervised:
        learning = [curves.exams()] if len(result.evaluations) > 2 else []
        learning += [curves.groups("demonstrations")] if any(record.dropped for record in history) else []
        first = Section(title="Learning", about=about, hero=loss, charts=learning)
    else:
        about += " Points with bars are held-out evaluations, with 95% intervals."
        first = Section(title="Learning", about=about, hero=curves.success(), charts=curves.learning())
    return [
        first,
        Section(title="Where the time went", about=_time(history), charts=curves.time(supervised)),
        *([_pace(history, curves, store)] if _any_ahead(history) else []),
        Section(
            title="Trainer",
            about=f"The same in every step: {still}." if still else "",
            charts=[curves.trainer(name) for name in moving],
        ),
    ]


def _any_ahead(history: Sequence[StepRecord]) -> bool:
    return any(record.ahead for record in history)


def _ahead(history: Sequence[StepRecord]) -> str:
    """How far, whether at the cost of slow episodes, and who waited for whom."""

    def mean(values: Iterable[float]) -> float:
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    groups, given_up = sum(one.groups for one in history), sum(one.given_up for one in history)
    waited, held = sum(sum(one.waited.values()) for one in history), sum(one.held_s for one in history)
    return (
        f"Tokens were trained {mean(one.staleness for one in history):.1f} versions after they were sampled, at most "
        f"{max(one.staleness_max for one in history)}. {given_up} of {groups + given_up} groups were given up and "
        f"drawn again. An episode that a step took has {mean(one.taken_length for one in history):.0f} tokens, a "
        f"sampled one {mean(one.sampled_length for one in history):.0f}. The trainer waited {duration(waited)} for "
        f"groups; for {duration(held)} nothing was drawn because it was behind."
    )


def _pace(history: Sequence[StepRecord], curves: _Curves, store: TraceStore) -> Section:
    charts = [*curves.pace(), _lengths(store.lengths())]
    return Section(title="Ahead of training", about=_ahead(history), charts=charts)


def _lengths(found: Lengths) -> Chart:
    """Whether what steps took is as long as what was sampled: how many tokens at most each share of episodes has."""
    shares = [float(share) for share in range(1, 100)]

    def quantiles(lengths: Sequence[int]) -> list[float]:
        return [float(value) for value in np.percentile(lengths, shares)] if lengths else [math.nan] * len(shares)

    return Chart(
        title="tokens an episode, by its place from the shortest to the longest",
        kind="number",
        xs=shares,
        x_name="per cent",
        series=[
            Series(name="sampled", tone="d", ys=quantiles(found.sampled)),
            Series(name="taken", tone="c", ys=quantiles(found.taken)),
            Series(name="trained", tone="n", ys=quantiles(found.trained)),
        ],
        about="Where taken lies on sampled, being slow costs an episode nothing. Trained is what of it taught.",
    )


def _time(history: Sequence[StepRecord]) -> str:
    if _any_ahead(history):
        return (
            f"Episodes went on for {duration(sum(one.lasted_s for one in history))}; meanwhile the trainer computed "
            f"for {duration(sum(one.train_s for one in history))}, and waited for the rest."
        )
    sample, train = sum(one.sample_s for one in history), sum(one.train_s for one in history)
    tools = sum(one.tool_s for one in history)
    whole = max(sample + train, 1e-9)
    said = f"{sample / whole:.0%} of {duration(whole)} went into episodes, {train / whole:.0%} into the trainer."
    return f"{said} Tools ran for {duration(tools)}, summed over episodes that ran side by side." if tools else said


class _Curves:
    """Charts over the steps of a run."""

    def __init__(self, history: Sequence[StepRecord], evaluations: Sequence[Evaluation], tones: dict[str, str]) -> None:
        self._history, self._evaluations, self._tones = history, evaluations, tones
        self._steps = [float(record.step) for record in history]

    def _of(self, value: Callable[[StepRecord], float]) -> list[float]:
        return [value(record) for record in self._history]

    def _single(self, title: str, value: Callable[[StepRecord], float], tone: str = "n") -> Series:
        return Series(name=title, tone=tone, ys=self._of(value))

    def success(self) -> Chart:
        """By mode, with what was measured on held-out tasks."""
        series = [
            Series(
                name=mode_name(mode),
                tone=tone,
                ys=[record.success_by_mode.get(mode, math.nan) for record in self._history],
                marks=self._marks(mode),
            )
            for mode, tone in self._tones.items()
        ]
        return Chart(title="success", kind="share", xs=self._steps, series=series)

    def exams(self) -> Chart:
        """Held-out success alone."""
        series = [
            Series(name=mode_name(mode), tone=tone, marks=self._marks(mode)) for mode, tone in self._tones.items()
        ]
        return Chart(title="held-out success", kind="share", xs=self._steps, series=series)

    def _marks(self, mode: str) -> list[Mark]:
        rows = [(one.row(mode), one.step) for one in self._evaluations]
        marks = [_mark(row, float(step)) for row, step in rows if row is not None]
        return [mark for mark in marks if mark is not None]

    def learning(self) -> list[Chart]:
        """Reward and what episodes are like."""
        closings = [
            Chart(title=title, kind="share", xs=self._steps, series=self._modes(lambda one, of=of: getattr(one, of)))  # type: ignore[misc]
            for title, of in (
                ("turns that think", "triggered"),
                ("turns whose thinking the model ended", "closed_by_itself"),
                ("turns whose thinking the budget ended", "closed_by_budget"),
            )
        ]
        infrastructure = self._single(
            "lost to the machinery", lambda one: one.infrastructure / max(one.episodes, 1), tone="w"
        )
        return [
            self._chart("reward", lambda one: one.reward),
            Chart(
                title="thinking tokens an episode",
                kind="count",
                xs=self._steps,
                series=self._modes(lambda one: one.thinking_by_mode),
            ),
            *closings,
            self._chart("turns an episode", lambda one: one.turns),
            Chart(
                title="episodes cut short",
                kind="share",
                xs=self._steps,
                series=[self._single("a turn ran into its length", lambda one: one.truncated)]
                + ([infrastructure] if any(record.infrastructure for record in self._history) else []),
            ),
            self.groups("groups"),
        ]

    def _modes(self, values: Callable[[StepRecord], Mapping[str, float]]) -> list[Series]:
        """A line for each mode that ever has more than 0."""
        return [
            Series(name=mode_name(mode), tone=tone, ys=[values(record).get(mode, math.nan) for record in self._history])
            for mode, tone in self._tones.items()
            if any(values(record).get(mode) for record in self._history)
        ]

    def groups(self, what: str) -> Chart:
        """Trained, and dropped by reason, on top of each other."""
        reasons = dict.fromkeys(reason for record in self._history for reason in record.dropped)
        tones = {"no_variance": "m", "infrastructure": "w", "too_small": "e", "failed": "m"}
        dropped = [
            Series(
                name=f"dropped: {reason.replace('_', ' ')}",
                tone=tones.get(reason, "d"),
                ys=[float(record.dropped.get(reason, 0)) for record in self._history],
            )
            for reason in reasons
        ]
        trained = Series(name="trained", tone="c", ys=[float(record.trained_groups) for record in self._history])
        return Chart(title=what, kind="count", stacked=True, xs=self._steps, series=[trained, *dropped])

    def time(self, supervised: bool) -> list[Chart]:
        """Speed and seconds."""
        parts = [
            self._single("waiting for groups" if self.ahead else "episodes", lambda one: one.sample_s, tone="c"),
            self._single("trainer", lambda one: one.train_s, tone="d"),
        ]
        speed = f"tokens {'trained' if supervised else 'sampled'} a second"
        charts = [
            self._chart(speed, lambda one: one.tokens_per_s, "count"),
            Chart(title="seconds a step", kind="seconds", xs=self._steps, series=parts),
        ]
        if any(record.tool_s for record in self._history):
            charts.append(self._chart("seconds in tools a step", lambda one: one.tool_s, "seconds"))
        return charts

    @property
    def ahead(self) -> bool:
        """Whether rollout ran ahead of training."""
        return any(record.ahead for record in self._history)

    def pace(self) -> list[Chart]:
        """Age, its spread, lengths, and what waited."""
        shares = [
            self._single(f"{name} versions behind", lambda one, name=name: one.distances.get(name, 0.0), tone=tone)  # type: ignore[misc]
            for name, tone in zip(DISTANCES, "cnmde", strict=True)
            if any(name in record.distances for record in self._history)
        ]
        lengths = [
            self._single("taken", lambda one: one.taken_length, tone="c"),
            self._single("sampled", lambda one: one.sampled_length, tone="d"),
        ]
        return [
            self._chart("versions behind, mean", lambda one: one.staleness),
            Chart(title="trained tokens by versions behind", kind="share", stacked=True, xs=self._steps, series=shares),
            Chart(title="tokens an episode", kind="number", xs=self._steps, series=lengths),
            self._chart("whole groups in line", lambda one: float(one.ready), "count"),
            self._chart("groups given up", lambda one: float(one.given_up), "count"),
        ]

    def _chart(self, title: str, value: Callable[[StepRecord], float], kind: view.Kind = "number") -> Chart:
        return Chart(title=title, kind=kind, xs=self._steps, series=[self._single(title, value)])

    def trainer_names(self) -> list[str]:
        """What the trainer reported: the well-known first; not what is told apart by version distance."""
        names = dict.fromkeys(name for record in self._history for name in record.trainer if "/" not in name)
        known = [name for name in _TRAINER if name in names]
        return known + [name for name in names if name not in _TRAINER]

    def constant(self, name: str) -> bool:
        """Whether a figure of the trainer was the same in every one of several steps that have it."""
        values = [record.trainer[name] for record in self._history if name in record.trainer]
        return len(values) > 1 and len(set(values)) == 1

    def last(self, name: str) -> str:
        """The latest value of a figure of the trainer."""
        return written([record.trainer[name] for record in self._history if name in record.trainer][-1], "count")

    def trainer(self, name: str) -> Chart:
        """One figure of the trainer."""
        kind: view.Kind = "share" if name in _SHARES else "number"
        return self._chart(title_of(name), lambda one: one.trainer.get(name, math.nan), kind)


def title_of(name: str) -> str:
    """A figure of the trainer in words."""
    return _TRAINER.get(name, name.replace("_", " "))


# -- episodes to read ----------------------------------------------------------------------------------------------


def _stories(store: TraceStore, renderer: Renderer, result: RunResult, tones: dict[str, str]) -> list[Story]:
    """For a thinking and a non-thinking mode: one held-out task before and after, else episodes of training."""
    thinking = [mode for mode in tones if mode != "no_think"][:1]
    shown = thinking + [mode for mode in tones if mode == "no_think"]
    exams = [evaluation.name for evaluation in result.evaluations]
    told = []
    for mode in shown:
        title = mode_name(mode).capitalize()
        found = _same_task(store, mode, exams[0], exams[-1]) if len(exams) > 1 else None
        why, traces = found or _of_training(store, mode, [record.step for record in result.history])
        episodes = [view.Episode(title=name, trace=trace, pieces=_pieces(trace, renderer)) for name, trace in traces]
        if episodes:
            told.append(Story(title=title, why=why, tone=tones[mode], episodes=episodes))
    return told


Chosen = tuple[str, list[tuple[str, Trace]]]
"""Why, and the traces with their names."""


def _same_task(store: TraceStore, mode: str, first: str, last: str) -> Chosen | None:
    """One task in the first and in the last evaluation: of those that were gained, if any were, the middle one."""
    played: dict[str, dict[str, tuple[bool, int, str]]] = {}
    for name in (first, last):
        traces = store.traces(label=f"eval:{name}", mode=mode, learnable=True, final=True)
        played[name] = {trace.group: (trace.success, _length(trace), trace.id) for trace in traces}
    kinds: dict[tuple[bool, bool], list[tuple[int, str]]] = {}
    for group in played[first].keys() & played[last].keys():
        (was, before, _), (now, after, _) = played[first][group], played[last][group]
        kinds.setdefault((was, now), []).append((before + after, group))
    if not kinds:
        return None
    counts = {kind: len(kinds.get(kind, [])) for kind in _WORDS}
    kind = (False, True) if counts[False, True] else max(counts, key=lambda one: counts[one])
    group = sorted(kinds[kind])[counts[kind] // 2][1]
    listed = ", ".join(f"{count} {_WORDS[one]}" for one, count in counts.items())
    which = "the middle one, by length, of those" if counts[kind] > 1 else "the one"
    why = f"Of {sum(counts.values())} held-out tasks, from {first} to {last}: {listed}. This is {which} {_WORDS[kind]}."
    return why, [(name, store.get(played[name][group][2])) for name in (first, last)]


_WORDS = {
    (False, True): "newly solved",
    (True, False): "no longer solved",
    (True, True): "solved both times",
    (False, False): "solved neither time",
}


def _of_training(store: TraceStore, mode: str, steps: Sequence[int]) -> Chosen:
    """An early failure and a late success, as far as there are such; else what there is early and late."""

    def find(among: Sequence[int], success: bool) -> tuple[str, Trace] | None:
        other = None
        for step in among:
            for trace in store.traces(label="train", step=step, mode=mode, learnable=True, final=True):
                if trace.success == success:
                    return f"step {step}", trace
                other = other or (f"step {step}", trace)
        return other

    early, late = find(steps[:_REACH], False), find(steps[::-1][:_REACH], True)
    found = {one[1].id: one for one in (early, late) if one}
    why = "From training: one of its first episodes and one of its last; a failure and a success where there were such."
    return why, list(found.values())


def _length(trace: Trace) -> int:
    return sum(len(node.token_ids) for node in trace.nodes if node.sampled)


def _pieces(trace: Trace, renderer: Renderer) -> list[list[str]]:
    """The text of each token of a sampled node; of all others in one."""
    return [token_texts(node, renderer) if node.sampled else [renderer.decode(node.token_ids)] for node in trace.nodes]


def token_texts(node: Node, renderer: Renderer) -> list[str]:
    """A text for each token. A character in several tokens stands at the last of them, the others are empty."""
    texts = []
    begun = 0
    for at in range(len(node.token_ids)):
        text = renderer.decode(node.token_ids[begun : at + 1])
        if text.endswith("\ufffd") and at - begun < 3 and at + 1 < len(node.token_ids):
            texts.append("")
        else:
            texts.append(text)
            begun = at + 1
    return texts
