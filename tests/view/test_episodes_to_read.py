"""Episodes to read: what was thought, called and answered stands apart; tokens are shaded; what is cut says so."""

import numpy as np
import pytest
from sample_report import node, the_trace

from askesis.types import (
    Artifact,
    Fork,
    Message,
    Outcome,
    ParseFailure,
    Text,
    ToolCall,
    ToolEvent,
    assistant,
    tool_result,
    user,
)
from askesis.view import Episode, Story
from askesis.view.episode import MOST_PICTURES, MOST_TOKENS, spread


def sheet(trace, pieces=None, title="before"):
    pieces = pieces or [["x"] * len(one.token_ids) if one.sampled else ["seen"] for one in trace.nodes]
    return Episode(title=title, trace=trace, pieces=pieces)


def story(*episodes):
    return spread(Story(title="Thinking", why="because", tone="a", episodes=episodes))


def test_each_turn_says_what_was_thought_called_and_answered():
    call = ToolCall(id="c0", name="replace", arguments={"line": 3, "text": "return a + b"})
    trace = the_trace(
        node(user("Repair it.")),
        node(
            assistant("Now.", reasoning="Swap them.", tool_calls=(call,)),
            tokens=9,
            thinking_tokens=4,
            started_s=1.0,
            ended_s=1.5,
        ),
        node(tool_result("ok, replaced", tool_call_id="c0")),
        tool_events=(ToolEvent(node=1, name="replace", seconds=0.25, status="bad_arguments"),),
    )
    prompt, turn, answer = story(sheet(trace)).sheets[0].entries
    assert (prompt.role, prompt.blocks[0].text.head, prompt.verbatim.head) == ("user", "Repair it.", "seen")
    assert (turn.head, turn.notes) == ("turn 1", ("9 tokens", "4 thought", "0.500 s"))
    assert [(block.kind, block.text.head) for block in turn.blocks] == [
        ("thought", "Swap them."),
        ("text", "Now."),
        ("call", ""),
    ]
    assert [(name, value.head) for name, value in turn.blocks[2].arguments] == [("line", "3"), ("text", "return a + b")]
    assert (answer.head, answer.notes) == ("replace answered", ("0.250 s", "bad arguments"))
    assert answer.blocks[0].text.head == "ok, replaced"


def test_tokens_are_shaded_by_probability_and_what_was_put_in_is_marked():
    trace = the_trace(
        node(
            assistant("a", reasoning="b"),
            tokens=6,
            logprobs=np.log([0.95, 0.6, 0.3, 0.1, 0.001, 1.0]),
            mask=[1, 1, 1, 1, 1, 0],
            forced_close=True,
        )
    )
    entry = story(sheet(trace, [["a", "b\n", "c", "", "\x1b", "</think>"]])).sheets[0].entries[0]
    assert [token.shade for token in entry.tokens] == [0, 1, 2, 3, 4, -1]
    assert [token.text for token in entry.tokens] == ["a", "b↵\n", "c", "◦", "␛", "</think>"]
    assert [token.chance for token in entry.tokens][:5] == ["0.95", "0.60", "0.30", "0.10", "1e-3"]
    forced = next(block for block in entry.blocks if block.kind == "forced")
    assert (forced.name, forced.text.head) == ("1", "</think>")


def test_what_a_script_said_has_no_probability():
    trace = the_trace(node(assistant("a"), tokens=1, version=-1))
    assert story(sheet(trace)).sheets[0].entries[0].tokens[0].chance == ""


def test_episodes_of_one_task_share_their_beginning():
    opening = node(user("Repair it."))
    two = [the_trace(opening, node(assistant(text))) for text in ("yes", "no")]
    told = story(*map(sheet, two))
    assert [entry.blocks[0].text.head for entry in told.shared] == ["Repair it."]
    assert [one.entries[0].blocks[0].text.head for one in told.sheets] == ["yes", "no"]
    other = the_trace(node(user("Another.")), node(assistant("yes")))
    assert story(sheet(two[0]), sheet(other)).shared == ()
    assert len(story(sheet(two[0])).sheets[0].entries) == 2  # alone, it shares nothing


def test_what_is_long_is_cut_in_the_middle_and_counted():
    text = "".join(f"{n:06d}" for n in range(10_000))
    trace = the_trace(node(user(text)), node(assistant(text), tokens=MOST_TOKENS + 500))
    pieces = [[text], [str(n) for n in range(MOST_TOKENS + 500)]]
    prompt, turn = story(sheet(trace, pieces)).sheets[0].entries
    for cut in (prompt.blocks[0].text, prompt.verbatim, turn.blocks[0].text):
        assert cut.left_out + len(cut.head) + len(cut.tail) == 60_000
        assert len(cut.head) + len(cut.tail) <= 8_000
        assert text.startswith(cut.head) and text.endswith(cut.tail)
    assert (len(turn.tokens) + len(turn.tail), turn.left_out) == (MOST_TOKENS, 500)
    assert turn.tail[-1].text == str(MOST_TOKENS + 499)


def test_calls_that_did_not_parse_and_branches_are_shown():
    failure = ParseFailure(kind="unterminated", detail="", raw='{"name"')
    first = node(Message(role="assistant", parts=(Text(text=""),), failures=(failure,)), finish_reason="length")
    trace = the_trace(node(user("x")), first, node(assistant("other"), parent=0))
    _, turn, branch = story(sheet(trace)).sheets[0].entries
    assert turn.notes[-1] == "cut off by its length"
    assert (turn.blocks[0].kind, turn.blocks[0].name, turn.blocks[0].text.head) == (
        "failure",
        "unterminated",
        '{"name"',
    )
    assert [turn.branch, branch.branch] == ["", "another branch begins here"]


def test_conversations_held_at_the_same_time_are_read_one_after_the_other():
    done = Outcome(by="limit", reason="max_turns")
    trace = the_trace(
        node(user("both")),
        node(assistant("ask"), parent=0),
        node(user("a0"), parent=-1),
        node(user("b0"), parent=-1),
        node(assistant("a1"), parent=2),
        node(assistant("b1"), parent=3),
        node(tool_result("a1"), parent=1),
        node(user("both, in short"), parent=-1),
        node(assistant("end"), parent=7),
        forks=(
            Fork(root=2, origin=1, kind="agent", name="north", outcome=Outcome(by="policy", reason="stopped")),
            Fork(root=3, origin=1, kind="agent", name="<south>", outcome=done),
            Fork(root=7, origin=6, kind="compaction"),
        ),
    )
    entries = story(sheet(trace)).sheets[0].entries
    assert [one.blocks[0].text.head for one in entries] == "both|ask|a1|a0|a1|b0|b1|both, in short|end".split("|")
    assert [(n, one.branch) for n, one in enumerate(entries) if one.branch] == [
        (3, "sub-agent north, ended by policy: stopped"),
        (5, "sub-agent <south>, ended by limit: max_turns"),
        (7, "shortened, it goes on from here"),
    ]
    assert [one.head for one in entries if one.role == "assistant"] == ["turn 1", "turn 2", "turn 3", "turn 4"]


def test_pictures_stand_under_the_call_that_left_them():
    call, big = ToolCall(id="call_0", name="open", arguments={}), MOST_PICTURES // 2 + 1
    shots = [Artifact(name="one", media_type="image/png", data=b"png", node=0, call="call_0")]
    shots += [Artifact(name="<big>", media_type="image/jpeg", data=bytes(big), node=2, call="call_0")] * 2
    shots += [Artifact(name="page", media_type="text/html", data=b"<script>", node=2, call="call_0")]
    turns = [node(assistant("", tool_calls=(call,))), node(tool_result("seen", tool_call_id="call_0"))] * 2
    entries = story(sheet(the_trace(*turns, artifacts=tuple(shots)))).sheets[0].entries
    assert [(one.name, one.source) for one in entries[1].pictures] == [("one", "data:image/png;base64,cG5n")]
    assert [one.name for one in entries[3].pictures] == ["<big>", "<big>"]
    assert entries[3].pictures[0].source and not entries[3].pictures[1].source


def test_tokens_without_their_texts_are_refused():
    with pytest.raises(ValueError, match="3 tokens came with 1 texts"):
        story(sheet(the_trace(node(assistant("a"), tokens=3)), [["abc"]]))
