"""Thinking budgets: every fault that other engines are known for is a test by its name."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.inference import EmbeddedEngine
from askesis.inference.thinking import Budgets
from askesis.types import Sampling, ThinkingLimit, ids

OPEN, CLOSE, END, CALL, UNCALL = 1, 2, 3, 50, 51
CLOSING = (60, 61, CLOSE, 62)
# the scripted model says: <think> 10 11 12 13 </think> 20 21 <end>; after a forced end it goes on with 63 and so on
SCRIPT = {0: OPEN, OPEN: 10, 13: CLOSE, CLOSE: 20, 21: END}
NATURAL = [OPEN, 10, 11, 12, 13, CLOSE, 20, 21, END]


def limit(budget, open=False, closing=CLOSING):
    tags = {"open_id": OPEN, "close_id": CLOSE, "call_open_id": CALL, "call_close_id": UNCALL}
    return ThinkingLimit(budget=budget, closing=closing, open=open, **tags)


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


def observed(budgets, tokens):
    """What becomes of `tokens`, drawn one after the other in row 0: the completion, True where forced."""
    said = []
    for token in tokens:
        thrown, closing = budgets.observe(np.array([0]), np.array([token]), np.array([token == END]))
        said += [] if thrown[0] else [(token, False)]
        said += [(other, True) for other in CLOSING] if closing else []
        if token == END and not thrown[0]:
            break
    return said


async def test_never_inside_a_tool_call(scripted):
    # thinking ends by itself; the call's arguments then spell an opening tag and go on for longer than the budget
    script = {0: OPEN, OPEN: 10, 10: CLOSE, CLOSE: CALL, CALL: 30, 35: OPEN + 89, OPEN + 89: 70}
    engine = EmbeddedEngine(scripted(script), slots=1, context_length=64)
    tokens, forced = await said(engine, [0], greedy(1, max_tokens=30))
    assert forced == [] and tokens[:6] == [OPEN, 10, CLOSE, CALL, 30, 31]
    for before in ([], [OPEN, 10, CLOSE]):  # with and without thinking before it
        budgets = Budgets(1)
        budgets.begin(0, limit(1))
        drawn = [*before, CALL, OPEN, 70, 71, CLOSE, OPEN, 72, 73, UNCALL, 20, END]
        assert observed(budgets, drawn) == [(token, False) for token in drawn]


def test_a_call_that_is_drafted_while_thinking_is_no_shelter():
    budgets = Budgets(1)
    budgets.begin(0, limit(3))
    said = observed(budgets, [OPEN, 10, CALL, 11, 12, 13])
    assert [token for token, forced in said] == [OPEN, 10, CALL, 11, *CLOSING, 13]


def test_thinking_that_is_opened_again_has_what_is_left_of_the_budget():
    budgets = Budgets(1)
    budgets.begin(0, limit(3))
    said = observed(budgets, [OPEN, 10, CLOSE, 20, OPEN, 11, 12, 13, 21, OPEN, 22, END])
    tokens = [token for token, _ in said]
    assert tokens == [OPEN, 10, CLOSE, 20, OPEN, 11, 12, *CLOSING, 21, OPEN, *CLOSING, 22, END]


async def test_after_a_forced_close_the_model_cannot_think_on_without_bound(scripted):
    # what follows the closing text is the opening tag, again and again
    engine = EmbeddedEngine(scripted({0: OPEN, OPEN: 10, 62: OPEN}), slots=1, context_length=128)
    tokens, _ = await said(engine, [0], greedy(2, max_tokens=40))
    assert tokens[:3] == [OPEN, 10, 11] and set(tokens[3:]) == {OPEN, *CLOSING}


async def test_a_budget_counts_anew_in_every_request(make_engine, scripted):
    engine = make_engine(scripted(SCRIPT), slots=1, context_length=128)
    context = [0]
    for _ in range(3):  # turns of one session, whose cache is kept
        out = await engine.generate(ids(context), greedy(2, max_tokens=9), session="s")
        assert out.token_ids.tolist()[:7] == [OPEN, 10, 11, *CLOSING]
        context += [*out.token_ids.tolist(), 0]


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


def slow(budget, drawn, opened):
    """The rule of a budget, read aloud: one request, one token after the other. Gives (token, forced) pairs."""
    said, left = [], budget
    where = "thought" if opened else "text"
    if opened and budget == 0:
        said, where = [(token, True) for token in CLOSING], "text"
    for token in drawn:
        if where == "thought" and left == 0 and token not in (CLOSE, END):
            said += [(other, True) for other in CLOSING]  # in the place of the token
            where = "text"
            continue
        said.append((token, False))
        if token == END:
            break
        if where == "thought":
            if token == CLOSE:
                where = "text"
            else:
                left -= 1
        elif where == "text" and token == OPEN:
            if left == 0:
                said += [(other, True) for other in CLOSING]
            else:
                where = "thought"
        elif where == "text" and token == CALL:
            where = "call"
        elif where == "call" and token == UNCALL:
            where = "text"
    return said


DRAWN = st.lists(st.sampled_from([OPEN, CLOSE, END, CALL, UNCALL, 10, 11]), min_size=1, max_size=30)


@given(rows=st.lists(st.tuples(st.none() | st.integers(0, 6), DRAWN, st.booleans()), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_a_batch_of_any_budgets_does_what_the_slow_reading_says(rows):
    """Several rows at once, each with a budget of its own or none, beside a reading of one token after the other."""
    budgets = Budgets(len(rows))
    said, going = [], dict(enumerate(rows))
    for row, (budget, _, opened) in enumerate(rows):
        forced = budgets.begin(row, None if budget is None else limit(budget, opened))
        said.append([(token, True) for token in forced])
    for at in range(30):
        going = {row: one for row, one in going.items() if at < len(one[1])}
        if not going:
            break
        order = np.array(list(going))
        tokens = np.array([one[1][at] for one in going.values()])
        thrown, closing = budgets.observe(order, tokens, tokens == END)
        for row, token, out in zip(order.tolist(), tokens.tolist(), thrown.tolist(), strict=True):
            said[row] += [] if out else [(token, False)]
            said[row] += [(other, True) for other in CLOSING] if row in closing else []
            if token == END and not out:
                budgets.end(row)
                del going[row]
    for one, (budget, drawn, opened) in zip(said, rows, strict=True):
        if budget is None:
            until = drawn.index(END) + 1 if END in drawn else len(drawn)
            assert one == [(token, False) for token in drawn[:until]]
        else:
            assert one == slow(budget, drawn, opened)


def kept_to(budget, tokens, forced, opened):
    """Whether a completion is one that the slow reading can have made, whatever was drawn and thrown away."""
    left, where, at = budget, "thought" if opened else "text", 0
    while at < len(tokens):
        token = tokens[at]
        if forced[at]:
            run = tokens[at : at + len(CLOSING)]
            if where != "thought" or left or tuple(run) != CLOSING[: len(run)] or not all(forced[at : at + len(run)]):
                return False
            where, at = "text", at + len(CLOSING)
            continue
        if where == "thought":
            if token == CLOSE:
                where = "text"
            elif token != END:
                left -= 1
                if left < 0:
                    return False
        elif where == "text" and token in (OPEN, CALL):
            where = "thought" if token == OPEN else "call"
        elif where == "call" and token == UNCALL:
            where = "text"
        at += 1
    return True


async def test_sampled_in_strides_and_in_mixed_batches_every_row_keeps_to_its_budget(make_engine, model):
    engine = make_engine(model, slots=12, context_length=96)
    budgets = [None, 0, 1, 2, 3, 5, 8, 13] * 12
    asked = [
        Sampling(
            temperature=1.5,
            max_tokens=70,
            stop=(END,),
            seed=place,
            thinking=None if budget is None else limit(budget, open=place % 3 == 0),
        )
        for place, budget in enumerate(budgets)
    ]
    outs = await asyncio.gather(*(engine.generate(ids([0, 5 + i % 40]), one) for i, one in enumerate(asked)))
    for place, (budget, out) in enumerate(zip(budgets, outs, strict=True)):
        if budget is None:
            assert not out.forced.any()
        else:
            assert kept_to(budget, out.token_ids.tolist(), out.forced.tolist(), place % 3 == 0), place
    assert sum(out.forced.any() for out in outs) > 20
    assert any(CLOSE in out.token_ids[~out.forced] for out in outs)
