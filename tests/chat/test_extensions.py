"""Which extensions leave the tokens of a conversation as they are, by family: measured, and compared with the table in
docs/renderers.md. Where the official template would change them, `extend` still appends, or says that it cannot."""

from pathlib import Path

import numpy as np
import pytest
from conversations import FAMILIES, OFF, Refused, compiled, official_text

from askesis.chat.generic import GenericRenderer
from askesis.chat.template import ChatTemplate
from askesis.types import (
    PrefixChanged,
    TemplateError,
    Thinking,
    ToolCall,
    ToolSpec,
    assistant,
    system,
    tool_result,
    user,
)

ON = Thinking()
TOOL = ToolSpec(name="f", description="", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
CALL = ToolCall(id="call_0", name="f", arguments={"a": 1})
ASKED = [user("Q")]
THOUGHT = [assistant("So:", reasoning="Hm.", tool_calls=(CALL,)), assistant("So.", reasoning="Hm.")]
PLAIN = [assistant("So:", tool_calls=(CALL,)), assistant("So.")]
FIRST = [*ASKED, THOUGHT[0], tool_result("r")]
BARE = [*ASKED, PLAIN[0], tool_result("r")]
# what was there before, what the model then says, in which mode, and what comes next
KINDS = {
    "a tool's result after a call with thinking": (ASKED, THOUGHT[0], ON, [tool_result("r")]),
    "a tool's result after a call without": (ASKED, PLAIN[0], ON, [tool_result("r")]),
    "a tool's result, mode off": (ASKED, PLAIN[0], OFF, [tool_result("r")]),
    "a tool's result after a second call with thinking": (FIRST, THOUGHT[0], ON, [tool_result("r")]),
    "a question after an answer with thinking": (ASKED, THOUGHT[1], ON, [user("R")]),
    "a question after an answer without": (ASKED, PLAIN[1], ON, [user("R")]),
    "a question, mode off": (ASKED, PLAIN[1], OFF, [user("R")]),
    "a question after calls with thinking": (FIRST, THOUGHT[1], ON, [user("R")]),
    "a question after calls, mode off": (BARE, PLAIN[1], OFF, [user("R")]),
    "a system message": (ASKED, PLAIN[1], OFF, [system("S")]),
    "the other mode, after an answer with thinking": (ASKED, THOUGHT[1], ON, [user("R")]),
}


def measured(family, renderer, template, kind):
    """(`keeps`, `branches`, `refuses` or `-`, our text before the extension, all of ours, the official text)."""
    history, said, mode, new = KINDS[kind]
    after = OFF if kind.startswith("the other mode") else mode
    if {mode.enabled, after.enabled} - {*renderer.modes}:
        return "-", "", "", ""
    tokens = renderer.render(history, tools=(TOOL,), thinking=mode)
    tokens = np.concatenate([tokens, renderer.render_completion(said, thinking=mode)])
    before = renderer.decode(tokens)
    whole = [*history, said]
    try:
        official = official_text(template, [*whole, *new], (TOOL,), after, True, **family.options)
    except Refused:
        with pytest.raises(TemplateError):
            renderer.extend(tokens, new, thinking=after, history=whole, tools=(TOOL,))
        return "refuses", before, "", ""
    verdict = "keeps" if official.startswith(before) else "branches"
    try:
        added = renderer.extend(tokens, new, thinking=after, history=whole, tools=(TOOL,))
    except PrefixChanged:
        return verdict, before, None, official
    return verdict, before, before + renderer.decode(added), official


@pytest.fixture(scope="session")
def table(templates, tokenizer):
    """Verdicts by kind and family; that `extend` is the template wherever that keeps is checked on the way."""
    found = {}
    for name, family in FAMILIES.items():
        renderer, template = family.renderer(tokenizer), compiled(family.source(templates))
        for kind in KINDS:
            verdict, before, ours, official = measured(family, renderer, template, kind)
            found[kind, name] = verdict
            if verdict == "keeps":
                assert ours == official, (kind, name)
            elif verdict == "branches":  # appended to what was sampled, whatever the template would do to that
                assert ours.startswith(before) and ours != official, (kind, name)
    return found


def test_the_table_in_the_docs_is_what_is_measured(table):
    columns = list(FAMILIES)
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {kind} | {' | '.join(table[kind, name] for name in columns)} |" for kind in KINDS]
    want = "\n".join(lines)
    page = (Path(__file__).parents[2] / "docs" / "renderers.md").read_text()
    assert want in page, f"docs/renderers.md should have:\n{want}"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_generic_renderer_branches_where_the_template_does_and_nowhere_else(templates, tokenizer, table, name):
    """On a family's own template it must come to the same verdicts, by asking."""
    family = FAMILIES[name]
    if family.options:
        return  # a setting that the template has to be given
    source = family.source(templates)
    renderer = GenericRenderer(tokenizer, ChatTemplate(source), stops=[tokenizer.id("<|im_end|>")])
    assert renderer.modes == family.cls.modes and renderer.calls.name == family.cls.syntax.name
    for kind in KINDS:
        verdict, _, ours, official = measured(family, renderer, compiled(source), kind)
        assert verdict == table[kind, name], kind
        if verdict in ("keeps", "branches"):
            assert ours == (official if verdict == "keeps" else None), kind


def test_the_generic_renderer_says_what_it_needs(templates, tokenizer):
    source = (templates / "qwen2_5.jinja").read_text()
    renderer = GenericRenderer(tokenizer, ChatTemplate(source), stops=[tokenizer.id("<|im_end|>")])
    tokens = renderer.render(ASKED)
    with pytest.raises(TemplateError, match="needs the history"):
        renderer.extend(tokens, [user("R")])
    with pytest.raises(TemplateError, match="has no such mode"):
        renderer.render(ASKED, thinking=ON)
    cut = renderer.extend(tokens, [user("R")], history=[*ASKED, assistant("So")])  # a limit cut the turn off
    assert renderer.decode(cut).startswith("<|im_end|>\n<|im_start|>user\nR")
    ended = np.concatenate([tokens, renderer.render_completion(assistant("So"))])
    whole = np.concatenate([ended, renderer.extend(ended, [user("R")], history=[*ASKED, assistant("So")])])
    assert whole.tolist() == renderer.render([*ASKED, assistant("So"), user("R")]).tolist()
    callless = GenericRenderer(tokenizer, ChatTemplate(source), stops=renderer.stop_ids, calls="none")
    with pytest.raises(TemplateError, match="nobody knows how"):
        callless.render(ASKED, tools=(TOOL,))
