"""Random conversations through render, sample, extend and parse, in every family: what was sampled stays as it is.

A sampler that knows no shame speaks in a real session: whole turns, tags in the wrong place, halves of characters, ends
that are none, forced tokens; tools and users answer with anything. After every turn: the engine's context is the last
one, what was sampled, and something new; only what was sampled carries loss; only calls outside of thinking run.
"""

import asyncio
import random

import numpy as np
import pytest
from conversations import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.chat.calls import CLOSE, OPEN, failure_text
from askesis.chat.generic import GenericRenderer
from askesis.chat.template import ChatTemplate
from askesis.rollout.session import EpisodeEnded, EpisodeOptions, EpisodeSession
from askesis.rollout.speakers import EpisodeSpec
from askesis.types import (
    Completion,
    Limits,
    Task,
    Thinking,
    ToolCall,
    ToolResult,
    ToolSpec,
    assistant,
    ids,
    system,
    user,
)

SPEC = ToolSpec(
    name="tool",
    description="Söker <b>allt</b>.",
    parameters={"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer"}}},
)
GENERIC = {"generic: qwen2_5": "qwen2_5", "generic: nemotron_3_nano": "nemotron_3_nano", "generic: qwen3": "qwen3"}
WORDS = ["word ", "\n", "\n\n", "漢字 🙂", "<tool_", "_call>", "</think", '{"name": "tool"}', "<function=tool>", "<|im"]
TAGS = ["<think>", "</think>", OPEN, CLOSE, "<tool_response>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


@pytest.fixture(scope="session", params=[*FAMILIES, *GENERIC])
def family(request, templates, tokenizer):
    if request.param in FAMILIES:
        return FAMILIES[request.param].renderer(tokenizer)
    template = ChatTemplate((templates / f"{GENERIC[request.param]}.jinja").read_text())
    return GenericRenderer(tokenizer, template, stops=[tokenizer.id("<|im_end|>")])


class Shameless:
    """A speaker. What it said is in `said`, what it was given in `contexts`."""

    context_length = 10**6

    def __init__(self, renderer, draw):
        self.renderer, self.draw = renderer, draw
        self.contexts, self.said = [], []

    def text(self):
        return "".join(self.draw.choices([*WORDS, *TAGS], k=self.draw.randint(0, 4)))

    def turn(self, thinking):
        """Tokens of a turn as it should be, with calls whose strings hold tags."""
        call = ToolCall(id="", name="tool", arguments={"text": self.text(), "n": self.draw.randint(0, 9)})
        thought = "Hm" if self.renderer.thinks(thinking) and self.draw.random() < 0.7 else ""
        said = assistant("So:", reasoning=thought, tool_calls=(call,) * self.draw.randint(0, 2))
        return self.renderer.render_completion(said, thinking=thinking).tolist()[:-1]

    def tokens(self, thinking):
        draw, tokenizer = self.draw, self.renderer.tokenizer
        out = []
        for _ in range(draw.randint(0, 4)):
            kind = draw.random()
            if kind < 0.3:
                try:
                    out += self.turn(thinking)
                except Exception as error:  # its strings held what ends a turn, or a template refused it
                    assert "completion cannot" in str(error) or "chat template" in str(error), error
            elif kind < 0.75:
                out += tokenizer.encode(self.text())
            else:
                out += [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randint(1, 3))]
        ended = draw.random() < 0.8
        return ([*out, draw.choice(self.renderer.stop_ids)] if ended or not out else out), ended or not out

    async def speak(self, tokens, messages, thinking, sampling):
        said, ended = self.tokens(thinking)
        share = 0.1 if sampling.thinking is not None else 0.0  # only a budget puts tokens there
        forced = np.array([self.draw.random() < share for _ in said], dtype=np.bool_)
        completion = Completion(
            token_ids=ids(said),
            logprobs=np.where(forced, 0, -1).astype(np.float32),
            forced=forced,
            finish_reason="stop" if ended else "length",
            policy_versions=np.zeros(len(said), dtype=np.int32),
        )
        self.contexts.append(tokens.copy())
        self.said.append(completion)
        return completion

    def close(self):
        """Nothing is held."""


class Echo:
    spec = SPEC

    def __init__(self, speaker):
        self.speaker = speaker

    async def __call__(self, args, session):
        return ToolResult(text=self.speaker.text())


def outside_thinking(renderer, tokens, thinking):
    """Another way to the same end: the text of a completion in which a call may stand, found by removing thinking."""
    think, unthink = (renderer.tokenizer.find(tag) for tag in ("<think>", "</think>"))
    kept, inside = [], renderer._began(thinking) == "inside"
    for token in tokens:
        if token == think:
            inside = True
        elif token == unthink:
            kept = kept if inside else []  # an end that was never opened: all before it was thought
            inside = False
        elif not inside:
            kept.append(token)
    return renderer.tokenizer.decode(kept)


def check_turn(renderer, message, tokens, thinking):
    outside, whole = outside_thinking(renderer, tokens, thinking), renderer.tokenizer.decode(tokens)
    written = [OPEN + call.raw + CLOSE for call in message.tool_calls]
    assert all(call in whole for call in written)
    if not any(tag in call for call in written for tag in ("<think>", "</think>")):  # in a string they are none
        assert all(call in outside for call in written), f"a phantom call: {whole!r}"
    assert renderer.thinking_tokens(ids(tokens), thinking=thinking) <= len(tokens)


async def converse(renderer, seed, turns):
    draw = random.Random(seed)
    speaker = Shameless(renderer, draw)
    modes = [Thinking(enabled=mode, budget=draw.choice([None, 3]) if mode else None) for mode in renderer.modes]
    if renderer._markup.think < 0:
        modes = [Thinking(enabled=mode) for mode in renderer.modes]
    task = Task(env="e", prompt="p", data={}, limits=Limits(max_turns=99, max_turn_tokens=10**5))
    session = EpisodeSession(
        spec=EpisodeSpec(task=task, thinking=modes[0], group="g", seed=0),
        speaker=speaker,
        renderer=renderer,
        toolset=(Echo(speaker),) if draw.random() < 0.8 else (),
        options=EpisodeOptions(),
        clock=lambda: 0.0,
    )
    session.add(*([system(speaker.text())] if draw.random() < 0.5 else []), user("Q" + speaker.text()))
    try:
        for _ in range(turns):
            thinking = draw.choice(modes)
            message = await session.turn(thinking=thinking)
            check_turn(renderer, message, speaker.said[-1].token_ids.tolist(), thinking)
            await session.call(message.tool_calls)
            if message.failures or draw.random() < 0.5:
                session.add(user("".join(map(failure_text, message.failures)) + speaker.text()))
    except EpisodeEnded:  # only an unknown template may say that it cannot go on, and then it says why
        assert renderer.name == "generic" and session.outcome.reason == "template", session.outcome
    session.conclude()
    return session, speaker


def check_record(session, speaker):
    grown = np.empty(0, dtype=np.int32)
    for context, completion in zip(speaker.contexts, speaker.said, strict=True):
        assert context[: len(grown)].tolist() == grown.tolist()
        grown = np.concatenate([context, completion.token_ids])
    nodes = session.record.nodes
    sampled = [node for node in nodes if node.sampled]
    assert np.concatenate([grown[:0], *(node.token_ids for node in nodes)]).tolist() == grown.tolist()
    assert not any(node.mask.any() for node in nodes if not node.sampled)
    for node, completion in zip(sampled, speaker.said, strict=True):
        assert node.token_ids.tolist() == completion.token_ids.tolist()
        assert node.mask.tolist() == (~completion.forced).tolist()


def play(family, seed, turns):
    check_record(*asyncio.run(converse(family, seed, turns)))


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=50)  # in each family: 600
@given(seed=SEEDS, turns=st.integers(1, 5))
def test_what_was_sampled_stays_and_nothing_else_runs(family, seed, turns):
    play(family, seed, turns)


@pytest.mark.full
@settings(max_examples=1_000)  # in each family: 12,000
@given(seed=SEEDS, turns=st.integers(1, 5))
def test_ten_thousand_conversations_and_more(family, seed, turns):
    play(family, seed, turns)
