"""Thinking budgets: every fault that other engines are known for is a test by its name."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.inference import EmbeddedEngine
from askesis.inference.thinking import Budgets
from askesis.types import Sampling, ThinkingLimit, ids

OPEN, CLOSE, END, CALL = 1, 2, 3, 50
CLOSING = (60, 61, CLOSE, 62)
# the scripted model says: <think> 10 11 12 13 </think> 20 21 <end>; after a forced end it goes on with 63 and so on
SCRIPT = {0: OPEN, OPEN: 10, 13: CLOSE, CLOSE: 20, 21: END}
NATURAL = [OPEN, 10, 11, 12, 13, CLOSE, 20, 21, END]


def limit(budget, open=False, closing=CLOSING):
    return ThinkingLimit(budget=budget, open_id=OPEN, close_id=CLOSE, closing=closing, open=open)


def greedy(budget=None, *, open=False, max_tokens=12, closing=CLOSING):
    thinking = None if budget is None else limit(budget, open, closing)
    return Sampling(temperature=0, max_tokens=max_tokens, stop=(END,), thinking=thinking)


@pytest.fixture
def engine(make_engine, scripted):
    return make_engine(scripted(SCRIPT), slots=8, context_length=128)


async def said(engine, context, sampling):
    out = await engine.generate(ids(context), sampling)
    assert (out.logprobs[out.forced] == 0).all() and (out.logprobs[~out.forced] < 0).all()
    return out.token_ids.tolist(), out.token_ids[out.forced].tolist()


async def test_the_closing_text_goes_in_once_and_sampling_goes_on(engine):
    tokens, forced = await said(engine, [0], greedy(2))
    assert tokens == [OPEN, 10, 11, *CLOSING, 63, 64, 65, 66, 67]
    assert forced == list(CLOSING)


@pytest.mark.parametrize("budget", [4, 5, 100])
async def test_a_natural_end_before_and_exactly_at_the_budget(engine, budget):
    assert await said(engine, [0], greedy(budget)) == (NATURAL, [])


async def test_no_bound(engine):
    assert await said(engine, [0], greedy()) == (NATURAL, [])


async def test_budget_zero_closes_once_and_at_once(engine):
    tokens, forced = await said(engine, [0], greedy(0))
    assert tokens[: 1 + len(CLOSING)] == [OPEN, *CLOSING] and forced == list(CLOSING)
    tokens, forced = await said(engine, [0, OPEN], greedy(0, open=True))
    assert tokens[: 1 + len(CLOSING)] == [*CLOSING, 63] and forced == list(CLOSING)


async def test_thinking_that_the_prompt_opened_counts_from_the_first_token(engine):
    tokens, forced = await said(engine, [0, OPEN], greedy(2, open=True))
    assert tokens[:6] == [10, 11, *CLOSING] and forced == list(CLOSING)
    assert (await said(engine, [0, OPEN], greedy(4, open=True)))[1] == []


async def test_an_earlier_close_in_the_context_does_not_switch_the_budget_off(engine):
    context = [0, *NATURAL, 30, 0]
    tokens, forced = await said(engine, context, greedy(2))
    assert tokens[:7] == [OPEN, 10, 11, *CLOSING] and forced == list(CLOSING)


async def test_thinking_in_the_context_is_not_counted(engine):
    context = [0, OPEN, *[10] * 50, CLOSE, END, 0]
    assert await said(engine, context, greedy(4)) == (NATURAL, [])


async def test_never_inside_a_tool_call(scripted):
    # thinking ends by itself; the call's arguments then spell an opening tag and go on for long
    script = {0: OPEN, OPEN: 10, 10: CLOSE, CLOSE: CALL, CALL + 4: OPEN + 89}
    engine = EmbeddedEngine(scripted(script | {OPEN + 89: 70}), slots=1, context_length=64)
    tokens, forced = await said(engine, [0], greedy(1, max_tokens=30))
    assert forced == [] and tokens[:4] == [OPEN, 10, CLOSE, CALL]
    # a tag inside the arguments does not open thinking again
    budgets = Budgets(1)
    budgets.begin(0, limit(1))
    row, no = np.array([0], dtype=np.int32), np.array([False])
    for token in (OPEN, 10, CLOSE, CALL, OPEN, 70, 71, 72, 73):
        thrown, closing = budgets.observe(row, np.array([token], dtype=np.int32), no)
        assert not thrown.any() and closing == []


async def test_a_request_that_never_thinks_is_left_alone(scripted):
    engine = EmbeddedEngine(scripted({}), slots=1, context_length=64)
    tokens, forced = await said(engine, [20], greedy(0, max_tokens=30))
    assert forced == [] and tokens == list(range(21, 51))


async def test_forced_tokens_count_to_max_tokens(engine):
    for budget, most in ((2, 5), (0, 3), (0, 1), (2, 7)):
        out = await engine.generate(ids([0]), greedy(budget, max_tokens=most))
        assert (len(out.token_ids), out.finish_reason) == (most, "length")
    out = await engine.generate(ids([0, OPEN]), greedy(0, open=True, max_tokens=2))
    assert (out.token_ids.tolist(), out.forced.all(), out.finish_reason) == ([60, 61], True, "length")


async def test_mixed_budgets_in_one_batch_and_other_ids_of_another_vocabulary(engine):
    other = ThinkingLimit(budget=1, open_id=10, close_id=90, closing=(90,))
    budgets = [0, 1, 2, 3, 4, None]
    requests = [said(engine, [0], greedy(b)) for b in budgets]
    requests.append(said(engine, [0], Sampling(temperature=0, max_tokens=4, thinking=other)))
    *out, foreign = await asyncio.gather(*requests)
    for budget, (tokens, forced) in zip(budgets, out, strict=True):
        if budget is None or budget == 4:
            assert (tokens, forced) == (NATURAL, [])
        else:
            assert tokens[: budget + 1 + len(CLOSING)] == [*NATURAL[: budget + 1], *CLOSING]
            assert forced == list(CLOSING)
    assert foreign == ([OPEN, 10, 11, 90], [90])


@given(
    budget=st.integers(0, 6),
    drawn=st.lists(st.sampled_from([OPEN, CLOSE, END, CALL, 10, 11]), min_size=1, max_size=30),
    opened=st.booleans(),
)
@settings(max_examples=300)
def test_whatever_is_drawn_thinking_keeps_to_its_budget_and_closes_once(budget, drawn, opened):
    """Against a plain reading of the rule, one token after the other."""
    budgets = Budgets(1)
    completion = list(budgets.begin(0, limit(budget, opened)))
    forced = bool(completion)
    row = np.array([0], dtype=np.int32)
    for token in drawn:
        thrown, closing = budgets.observe(row, np.array([token], dtype=np.int32), np.array([token == END]))
        completion += [] if thrown[0] else [token]
        assert not (thrown[0] and not closing)
        if closing:
            assert not forced
            forced, completion = True, [*completion, *CLOSING]
        if token == END and not thrown[0]:
            break
    thinking, count, phase = [], 0, "inside" if opened else "before"
    for token in completion:
        if phase == "before" and token == OPEN:
            phase = "inside"
        elif phase != "after" and token == CLOSE:
            phase = "after"
        elif phase == "inside" and token not in (60, 61):
            thinking.append(token)
            count += token != END
    assert count <= budget
