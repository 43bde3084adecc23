"""Notes: bounded, with errors that say what to do, and exactly what was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from askesis.tools.notes import ACTIONS, NoteError, Notes, notes_tool
from askesis.types import ConfigError

NAMES = st.sampled_from(["a", "plan", "x" * 40, "", "two words", "../up", "x" * 41])
TEXTS = st.text(max_size=30)
STEPS = st.lists(st.tuples(st.sampled_from(["write", "append", "delete"]), NAMES, TEXTS), max_size=25)


@given(STEPS)
def test_what_was_written_is_there_within_the_bounds(steps):
    notes, kept = Notes(most=60, count=3), {}
    for action, name, text in steps:
        wanted = dict(kept)
        if action == "delete":
            wanted.pop(name, None)
        else:
            wanted[name] = f"{kept[name]}\n{text}" if action == "append" and name in kept and text else text
        try:
            notes.delete(name) if action == "delete" else getattr(notes, action)(name, text)
        except NoteError:
            refused = (
                (action == "delete" and name not in kept)
                or (action != "delete" and not text)
                or name in ("", "two words", "../up", "x" * 41)
                or len(wanted) > 3
                or sum(len(key) + len(value) for key, value in wanted.items()) > 60
            )
            assert refused, (action, name, text, kept)
        else:
            kept = wanted
        assert [(name, notes.read(name)) for name in kept] == [*kept.items()] and len(notes) == len(kept)
    assert sum(len(key) + len(value) for key, value in kept.items()) <= 60
    assert all(f"[{name}]\n{text}" in notes.shown() for name, text in kept.items())


async def test_the_tool_says_what_it_did_and_what_was_wrong():
    tool = notes_tool(Notes(most=50))

    async def said(**args):
        result = await tool(args, None)
        assert result.end is None and result.error == result.text.startswith("error: ")
        return result.text

    assert await said(action="list") == "no notes"
    assert await said(action="write", name="plan", text="look at the log") == "noted plan"
    assert await said(action="append", name="plan", text="then mend it") == "noted plan"
    assert await said(action="read", name="plan") == "look at the log\nthen mend it"
    assert await said(action="list") == "plan (28): look at the log..."
    for call, wanted in (
        ({"action": "read", "name": "plam"}, "did you mean 'plan'"),
        ({"action": "write", "name": "plan"}, "write needs 'text'"),
        ({"action": "delete"}, "delete needs 'name'"),
        ({"action": "write", "name": "more", "text": "y" * 30}, "room for 50"),
    ):
        assert wanted in await said(**call)
    assert await said(action="delete", name="plan") == "deleted plan"
    assert tool.spec.parameters["properties"]["action"]["enum"] == [*ACTIONS]
    with pytest.raises(ConfigError, match="most=0"):
        Notes(most=0)
