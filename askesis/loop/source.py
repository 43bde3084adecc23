"""Where a step's samples come from: episodes that a model sampled, or that a demonstrator played."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from askesis.loop.ageing import length
from askesis.loop.recipe import Demonstrations, Recipe
from askesis.loop.samples import Advantages, demonstration_samples, group_samples, why_dropped
from askesis.loop.stream import Prompt, PromptStream, derived_seed, tasks_of
from askesis.loop.watch import Watch
from askesis.rollout import EpisodeSpec, PolicySpeakers, TraceStore, group_specs
from askesis.types import AskesisError, ConfigError, Env, Group, Policy, Renderer, Sample, Task, Trace

Teach = Callable[[Group], "list[Sample] | str"]
"""What a group teaches: its samples, or why it is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One step's episodes. dropped: reason by group. The groups are in the order of their prompts."""

    groups: Sequence[Group]
    samples: Sequence[Sample]
    trained: Sequence[str]
    dropped: dict[str, str]

    @property
    def traces(self) -> list[Trace]:
        """The final attempts of all episodes."""
        return [trace for group in self.groups for trace in group.traces]


class Source:
    """Which prompts there are, what is played of each, and what groups teach. `end`: the place at which it is
    exhausted, None for never. watch: has a look at every group before it teaches."""

    def __init__(
        self,
        *,
        prompts: Callable[[int, int], list[Prompt]],
        specs: Callable[[Prompt], list[EpisodeSpec]],
        teach: Teach,
        per_step: int,
        end: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.specs, self.per_step, self.end = specs, per_step, end
        self._prompts, self._teach, self._watch = prompts, teach, watch

    def prompts(self, position: int, count: int) -> list[Prompt]:
        """The prompts at `position` and after it; fewer than `count` at the end."""
        left = count if self.end is None else min(count, self.end - position)
        return self._prompts(position, left) if left > 0 else []

    def prompt(self, position: int) -> Prompt:
        """The prompt at `position`, wherever the end is."""
        return self._prompts(position, 1)[0]

    async def judge(self, groups: Sequence[Group], step: int) -> Batch:
        """What whole groups, in their order, teach in a step."""
        samples: list[Sample] = []
        trained, dropped = [], {}
        if self._watch is not None:
            self._watch.begin(step)
            await self._watch.replay(groups)
        for group in groups:
            kept_out = self._watch.judge(group) if self._watch is not None else ""
            taught = kept_out or self._teach(group)
            if isinstance(taught, str):
                dropped[group.id] = taught
            else:
                samples += taught
                trained.append(group.id)
        return Batch(groups=groups, samples=samples, trained=trained, dropped=dropped)


def rollout_source(
    recipe: Recipe, env: Env, advantages: Advantages, weights: Mapping[str, float], watch: Watch
) -> Source:
    """Episodes of the model, in groups. weights: of tasks in the loss, by id; all others have 1.

    Where rollout runs ahead of training, it ends with the last group that the run's steps can train.
    """
    rollout, seed = recipe.rollout, recipe.run.seed
    stream = PromptStream(
        env,
        rollout.modes,
        pool=rollout.pool or 16 * rollout.tasks_per_step,
        seed=seed,
        limits=rollout.limits,
        canaries=recipe.monitors.canaries,
    )

    def teach(group: Group) -> list[Sample] | str:
        weight = weights.get(group.task.id, 1.0)
        return why_dropped(group) or ("audit" if weight == 0 else group_samples(group, advantages, weight))

    ahead, steps = rollout.staleness > 0, recipe.run.steps
    return Source(
        prompts=stream.take,
        specs=lambda prompt: group_specs(
            prompt.task, prompt.thinking, group=prompt.group, size=rollout.group_size, seed=seed
        ),
        teach=teach,
        per_step=rollout.tasks_per_step,
        end=steps * rollout.tasks_per_step if ahead and steps is not None else None,
        watch=watch,
    )


def demonstration_source(recipe: Recipe, env: Env) -> Source:
    """Episodes of the environment's demonstrator, each a group of one. Passes after the first play the same again."""
    shown = _demonstrations(recipe)
    stream = PromptStream(
        env,
        shown.modes,
        pool=recipe.rollout.pool or 16 * shown.per_step,
        seed=recipe.run.seed,
        limits=recipe.rollout.limits,
    )

    def prompts(position: int, count: int) -> list[Prompt]:
        found = []
        for at in range(position, position + count):
            same = stream.take(at if shown.episodes is None else at % shown.episodes, 1)[0]
            found.append(Prompt(position=at, task=same.task, thinking=same.thinking))
        return found

    def specs(prompt: Prompt) -> list[EpisodeSpec]:
        place = prompt.position if shown.episodes is None else prompt.position % shown.episodes
        seed = derived_seed(recipe.run.seed, "demonstration", place)
        return [EpisodeSpec(task=prompt.task, thinking=prompt.thinking, group=prompt.group, seed=seed)]

    def teach(group: Group) -> list[Sample] | str:
        if not group.learnable:
            return "infrastructure"
        if shown.successes_only and not all(trace.success for trace in group.learnable):
            return "failed"
        return demonstration_samples(group.learnable, observations=shown.observations)

    end = None if shown.episodes is None else shown.episodes * shown.epochs
    return Source(prompts=prompts, specs=specs, teach=teach, per_step=shown.per_step, end=end)


def demonstrators(recipe: Recipe, env: Env, renderer: Renderer) -> PolicySpeakers:
    """The environment's demonstrator as who speaks."""
    return PolicySpeakers(
        policy=lambda spec: _demonstrator(recipe, env, spec.task, spec.seed),
        renderer=renderer,
        context_length=recipe.rollout.context_length,
    )


def demonstrate(recipe: Recipe, env: Env) -> None:
    """Make one demonstrator. Raises `ConfigError` if there is none, or the recipe's options do not fit it."""
    task = tasks_of(env, "train", seed=recipe.run.seed, limit=1)[0]
    _demonstrator(recipe, env, task, 0)


def _demonstrator(recipe: Recipe, env: Env, task: Task, seed: int) -> Policy:
    make = getattr(env, "demonstrator", None)
    if make is None:
        raise ConfigError(
            f"environment {env.name!r} has no demonstrator(task, seed=...): 'sft' needs a scripted policy to learn from"
        )
    options = _demonstrations(recipe).options
    try:
        made: Policy = make(task, seed=seed, **options)
    except AskesisError:
        raise
    except Exception as error:
        raise ConfigError(
            f"environment {env.name!r}: demonstrator(task, seed={seed}) with options {sorted(options)} failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    return made


def _demonstrations(recipe: Recipe) -> Demonstrations:
    if recipe.demonstrations is None:
        raise ConfigError("[demonstrations] is missing: 'sft' needs to know what to learn from")
    return recipe.demonstrations


class Sink:
    """Where the traces of training go: into the store, under the step that goes on when they come.

    keep: keep only the traces of the first so many groups; all groups are entered in the ledger.
    """

    def __init__(self, store: TraceStore, *, keep: int | None = None, kept: int = 0) -> None:
        self._store, self._keep, self._kept = store, keep, kept
        self.step = 0
        self._lengths: list[int] = []

    def add(self, traces: Sequence[Trace], *, label: str = "", step: int = 0, group: Group | None = None) -> None:
        """As `TraceStore.add`, whatever step the episodes were begun in."""
        whole = self._keep is None or self._kept < self._keep
        self._kept += 1
        self._store.add(traces if whole else (), label=label, step=self.step, group=group)
        last = traces if group is None else group.learnable  # one that was given up, with the tokens that it had
        self._lengths += [length(trace) for trace in last if trace.outcome.learnable or trace.outcome.by == "cancelled"]

    def lengths(self) -> list[int]:
        """Sampled tokens of each episode of the groups that came whole or were given up since the last call."""
        found, self._lengths = self._lengths, []
        return found


def sink_of(recipe: Recipe, store: TraceStore) -> Sink:
    """Where the traces of training go."""
    if recipe.demonstrations is None:
        return Sink(store)
    return Sink(store, keep=recipe.demonstrations.keep, kept=store.ledger.position())
