"""Conversations of every shape, and the families with the official texts that their templates are held against."""

import json
from dataclasses import dataclass, field

from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from askesis.chat.qwen3 import Qwen3Renderer
from askesis.chat.qwen3_5 import Qwen35Renderer, Qwen35SmallRenderer, Qwen36Renderer, Qwen38Renderer
from askesis.chat.qwen3_instruct_2507 import Qwen3Instruct2507Renderer
from askesis.chat.qwen3_thinking_2507 import Qwen3Thinking2507Renderer
from askesis.types import (
    Message,
    Reasoning,
    Text,
    Thinking,
    ToolCall,
    ToolSpec,
    assistant,
    system,
    tool_result,
    user,
)

OFF = Thinking(enabled=False)
SPEC = ToolSpec(
    name="suche",
    description="Söker <b>allt</b> & 'mer'.",
    parameters={"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
)
TOOLSETS = [(), (SPEC,), (SPEC, ToolSpec(name="noop", description="", parameters={"type": "object", "properties": {}}))]


@dataclass(frozen=True)
class Family:
    """A renderer's class, what it is made with, and the official template with the options that say the same.

    replaced: what must be changed in that template, for a family with no official text of its own.
    """

    cls: type
    template: str
    made: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    replaced: tuple[str, str] | None = None

    def renderer(self, tokenizer, **more):
        return self.cls(tokenizer, **self.made, **more)

    def source(self, folder):
        source = (folder / f"{self.template}.jinja").read_text()
        if self.replaced:
            assert self.replaced[0] in source
            source = source.replace(*self.replaced)
        return source


# what public copies of the template of 2507-Thinking have at its end, in place of Qwen3's switch
_QWEN3_END = (
    "    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n"
    "        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n"
)
FAMILIES = {
    "qwen3": Family(Qwen3Renderer, "qwen3"),
    "qwen3-instruct-2507": Family(Qwen3Instruct2507Renderer, "qwen3_instruct_2507"),
    "qwen3-thinking-2507 (unverified)": Family(
        Qwen3Thinking2507Renderer, "qwen3", replaced=(_QWEN3_END, "    {{- '<|im_start|>assistant\\n<think>\\n' }}\n")
    ),
    "qwen3.5": Family(Qwen35Renderer, "qwen3_5_think"),
    "qwen3.5-small": Family(Qwen35SmallRenderer, "qwen3_5_nothink"),
    "qwen3.6": Family(Qwen36Renderer, "qwen3_6"),
    "qwen3.6, preserve_thinking": Family(
        Qwen36Renderer, "qwen3_6", made={"preserve_thinking": True}, options={"preserve_thinking": True}
    ),
    "qwen3.8": Family(Qwen38Renderer, "qwen3_8"),
    "qwen3.8, without preserve_thinking": Family(
        Qwen38Renderer, "qwen3_8", made={"preserve_thinking": False}, options={"preserve_thinking": False}
    ),
}


class Refused(Exception):
    """The official template will not have it."""


def compiled(source):
    """A template as transformers runs it."""

    def refuse(message):
        raise Refused(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)


def as_dict(message: Message) -> dict:
    out: dict = {"role": message.role, "content": message.text}
    if any(isinstance(part, Reasoning) for part in message.parts):
        out["reasoning_content"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [{"function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls]
    return out


def official_text(official, messages, tools, thinking, generate, **options):
    if thinking is not None:
        options["enable_thinking"] = thinking.enabled
    return official.render(
        messages=[as_dict(m) for m in messages],
        tools=[tool.as_json() for tool in tools] or None,
        add_generation_prompt=generate,
        **options,
    )


CALL = ToolCall(
    id="call_0",
    name="suche",
    arguments={"q": "snö & <ice>", "n": [1, {"x": None}], "b": True, "z": None, "f": 1.0, "t": "a\n\n<b>\n"},
)
STRING_CALL = ToolCall(id="call_1", name="noop", arguments='{"raw":  1}')  # type: ignore[arg-type]
SHAPES = {
    "one question": [user("Hi")],
    "white space": [user("  Hi\n\n")],
    "system": [system("Be brief."), user("Hi")],
    "empty system": [system(""), user("Hi")],
    "system later": [user("Hi"), system("Be brief."), user("Well?")],
    "soft switch": [user("Hi /no_think"), assistant("Yes."), user("And now? /think")],
    "(a) user after thinking": [user("Hi"), assistant("Yes.", reasoning="Hm."), user("Why?")],
    "answer last": [user("Hi"), assistant("Yes.", reasoning="Hm.")],
    "answer last, no thought": [user("Hi"), assistant("Yes.")],
    "call last": [user("Hi"), assistant(tool_calls=(CALL,))],
    "(b) result after a bare call": [user("Hi"), assistant(tool_calls=(CALL,)), tool_result("r")],
    "result after thought": [user("Hi"), assistant("So:", reasoning="Hm.\n", tool_calls=(CALL,)), tool_result("r")],
    "(c) two results": [user("Hi"), assistant("a", tool_calls=(CALL, CALL)), tool_result("r"), tool_result("s")],
    "arguments as text": [user("Hi"), assistant("a", tool_calls=(STRING_CALL,)), tool_result("r")],
    "wrapped user": [user("Hi"), assistant("x", reasoning="y"), user("<tool_response>\nr\n</tool_response>")],
    "only wrapped": [user("<tool_response>r</tool_response>"), assistant("x", reasoning="y")],
    "literal tag": [user("Hi"), assistant("<think>\nHm\n</think>\n\nYes"), user("?"), assistant("a</think>b</think>c")],
    "empty reasoning": [user("Hi"), Message(role="assistant", parts=(Reasoning(text=""), Text(text="\n\nx")))],
    "tool first": [tool_result("r"), user("Hi")],
    "nobody asks": [assistant("Hi"), tool_result("r")],
    "long": [
        system("S"),
        user("1"),
        assistant("2", reasoning="t", tool_calls=(CALL,)),
        tool_result("3"),
        assistant("4", reasoning="u"),
        user("5"),
        assistant(reasoning="v", tool_calls=(CALL,)),
        tool_result("6\n"),
        assistant("\n7"),
    ],
}
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs",)) | st.sampled_from("\n <>/"), max_size=12
) | st.sampled_from(["</think>", "<think>", "/think", "<tool_call>", "\n\n", "<tool_response>x</tool_response>"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=2)
CALLS = st.builds(lambda n, a: ToolCall(id="call_0", name=n, arguments=a), st.sampled_from(["f", "näme"]), ARGUMENTS)
MESSAGES = st.one_of(
    st.builds(user, WORDS),
    st.builds(system, WORDS),
    st.builds(tool_result, WORDS),
    st.builds(
        lambda text, thought, calls: Message(
            role="assistant",
            parts=(*([Reasoning(text=thought)] if thought is not None else []), Text(text=text)),
            tool_calls=tuple(calls),
        ),
        WORDS,
        st.none() | WORDS,
        st.lists(CALLS, max_size=2),
    ),
)
