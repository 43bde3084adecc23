"""A fresh small model: its tokenizer learned from demonstrations, its weights drawn from a seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from askesis.chat import SPECIAL, Qwen3Renderer, Tokenizer, train_bpe
from askesis.loop.reception import reception_of
from askesis.loop.recipe import BOTH_MODES, Init, Recipe
from askesis.loop.source import demonstrators
from askesis.loop.stream import PromptStream, derived_seed
from askesis.rollout import EpisodeSpec, Roller
from askesis.types import Agent, Env, EnvError, Session, ToolSpec, Trace

if TYPE_CHECKING:
    from askesis.models import Qwen3

_SPLIT = re.compile("|".join(re.escape(token) for token in SPECIAL))
_SHORTEST = 4  # characters; shorter texts are left to the merges


async def learn_tokenizer(recipe: Recipe, env: Env, agent: Agent) -> Qwen3Renderer:
    """Play demonstrations, write them in bytes, and learn a BPE from the text. The same recipe gives the same one.

    Raises `EnvError` if no demonstration could be played.
    """
    settings = recipe.model.tokenizer
    letters = Qwen3Renderer(train_bpe((), 256))
    stream = PromptStream(
        env,
        BOTH_MODES,
        pool=settings.episodes,
        seed=derived_seed(recipe.run.seed, "tokenizer"),
        limits=recipe.rollout.limits,
    )
    specs = [
        EpisodeSpec(
            task=prompt.task,
            thinking=prompt.thinking,
            group=prompt.group,
            seed=derived_seed(recipe.run.seed, "tokenizer", prompt.position),
        )
        for prompt in stream.take(0, settings.episodes)
    ]
    # in letters a text is several times as long: no bound but the demonstrator's own end
    freed = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"context_length": 2**30})})
    watched = ToolWatch(agent)
    speakers, reception = demonstrators(freed, env, letters), reception_of(agent, letters)
    traces = await Roller(speakers, letters, env, watched, reception=reception).run(_unbounded(specs))
    played = [trace for trace in traces if trace.outcome.learnable]
    if not played:
        raise EnvError(
            f"environment {env.name!r}: none of {len(traces)} demonstrations could be played"
            + (f"; the first ended by {traces[0].outcome}" if traces else "")
        )
    texts = [letters.decode(tokens) for trace in played for tokens, *_ in trace.sequences()]
    phrases = list(settings.phrases)
    if settings.scaffolding:
        phrases += [*constant_texts(played, letters), *call_openings(watched.tools)]
    tokenizer: Tokenizer = train_bpe(texts, settings.vocab_size, scaffolding=phrases)
    return Qwen3Renderer(tokenizer, closing=settings.closing)


def _unbounded(specs: Iterable[EpisodeSpec]) -> list[EpisodeSpec]:
    return [
        replace(spec, task=replace(spec.task, limits=replace(spec.task.limits, max_turn_tokens=2**20, max_tokens=None)))
        for spec in specs
    ]


class ToolWatch:
    """An agent that plays as another does, and remembers which tools it was given."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self.name = agent, agent.name
        self.tools: Sequence[ToolSpec] = ()

    async def run(self, session: Session) -> None:
        """As the other's."""
        self.tools = session.tools
        try:
            await self._agent.run(session)
        finally:  # a harness may have offered its own; a program's are known once it has asked for a turn
            self.tools = session.tools or self.tools


def constant_texts(traces: Sequence[Trace], renderer: Qwen3Renderer) -> list[str]:
    """The texts between special tokens that all first prompts share, and what the varying ones begin with; and those
    that all first prompts of a sub-agent share."""
    chunks: Counter[str] = Counter()
    seen: set[str] = set()
    told: dict[str, set[str]] = {}
    for trace in traces:
        for fork in trace.forks:
            if fork.kind == "agent":
                found = _opening(trace, fork.root, renderer)
                told[fork.name] = told.get(fork.name, found) & found
        found = _opening(trace, 0, renderer)
        chunks.update(found)
        seen |= found
    shared = sorted(text for text, count in chunks.items() if count == len(traces))
    others = {text for text in seen if chunks[text] < len(traces) and len(text) >= _SHORTEST}
    first, last = min(others, default=""), max(others, default="")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = re.sub(r"\w+$", "", first[:same])  # not half a word
    theirs = sorted({text for one in told.values() for text in one} - set(shared))
    return [text for text in (*shared, prefix, *theirs) if len(text) >= _SHORTEST and text.isascii()]


def _opening(trace: Trace, root: int, renderer: Qwen3Renderer) -> set[str]:
    """The texts between special tokens of the first prompt of a conversation that begins at `root`."""
    texts, parent = [], trace.nodes[root].parent
    for at in range(root, len(trace.nodes)):
        node = trace.nodes[at]
        if node.parent != parent:  # another conversation's, held at the same time
            continue
        if node.sampled:
            break
        texts.append(renderer.decode(node.token_ids))
        parent = at
    return set(_SPLIT.split("".join(texts)))


def call_openings(tools: Iterable[ToolSpec]) -> list[str]:
    """How calls of each tool begin, go on from argument to argument, and end."""
    texts = []
    for tool in tools:
        start = f'\n{{"name": {json.dumps(tool.name)}, "arguments": {{'
        properties = dict(tool.parameters.get("properties", {}))
        if not properties:
            texts.append(start + "}}\n")
            continue
        before = start
        for name, schema in properties.items():
            quote = '"' if isinstance(schema, dict) and schema.get("type") == "string" else ""
            texts.append(f"{before}{json.dumps(name)}: {quote}")
            before = f"{quote}, "
        texts.append(f"{quote}}}}}\n")
    return [text for text in texts if text.isascii()]


def fresh_model(init: Init, renderer: Qwen3Renderer, seed: int) -> Qwen3:
    """A model with the tokenizer's vocabulary and weights drawn from `seed`."""
    from askesis.models import ModelConfig, build

    sizes = init.model_dump(exclude={"std"})
    tokenizer = renderer.tokenizer
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.id("<|im_end|>"),
        pad_token_id=tokenizer.id("<|endoftext|>"),
        **sizes,
    )
    model = build(config)
    model.initialise(seed, init.std)
    return model
