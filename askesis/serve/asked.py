"""A request in Askesis' terms, whichever protocol it came in, and the pieces that all protocols' schemas share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from askesis.rollout import complaint
from askesis.serve.faults import from_validation, invalid
from askesis.types import ConfigError, Message, Sampling, Thinking, ToolCall, ToolSpec, assistant

T = TypeVar("T", bound=BaseModel)
_NAME = r"^[a-zA-Z0-9_.-]{1,128}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one request wants.

    stops: texts that end the answer. calls: whether tools are offered, so that calls are told as calls and not as
    text. strict: tools of which a call that does not fit the parameters is told as text.
    echo: what the answer repeats of the request, in its protocol's own words.
    """

    model: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    thinking: Thinking = field(default_factory=Thinking)
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    choices: int = 1
    stream: bool = False
    logprobs: bool = False
    calls: bool = True
    strict: frozenset[str] = frozenset()
    usage_chunk: bool = False
    echo: Mapping[str, Any] = field(default_factory=dict)


class Strict(BaseModel):
    """A body: unknown fields are errors, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def supports(*values: Any, why: str) -> AfterValidator:
    """For a field that is known, but of which only these values can be served."""

    def check(value: Any) -> Any:
        if value not in values:
            raise PydanticCustomError("unsupported", "{why}", {"why": why})
        return value

    return AfterValidator(check)


def _temperature(value: float) -> float:
    if 0 < value < 1e-6:
        raise ValueError("expected 0 (greedy) or at least 1e-6")
    return value


Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), AfterValidator(_temperature)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
MinP = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=-1, le=2**31 - 1, description="-1 and 0: off")]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Budget = Annotated[int, Field(ge=0, le=2**31 - 1, description="most tokens of thinking in this turn")]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(max_length=16)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Efforts = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
ToolName = Annotated[str, Field(pattern=_NAME)]
Metadata = Annotated[dict[str, Any] | None, Field(description="accepted, and not used")]
JsonObject = dict[str, Any]


class TemplateKwargs(Strict):
    """As vLLM and SGLang pass them to a chat template."""

    enable_thinking: bool | None = None
    thinking_budget: Budget | None = None


class TextPart(Strict):
    """The one kind of content that the models here read."""

    type: Literal["text"]
    text: str


def read(schema: type[T], body: bytes) -> T:
    """A body as its schema has it. Raises `Fault` 400 with the first thing that is wrong."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise from_validation(errors, _loaded(body)) from None


def _loaded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def json_object(text: str, where: str) -> dict[str, Any]:
    """A call's arguments. Raises `Fault` for what is no JSON object, or could not be written again."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(f"{where}: no JSON: {error}", param=where) from None
    if not isinstance(value, dict):
        raise invalid(f"{where}: expected a JSON object, got {type(value).__name__}", param=where)
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def tool_specs(
    tools: Sequence[tuple[str, str | None, Mapping[str, Any] | None, bool | None]],
) -> tuple[ToolSpec, ...]:
    """(name, description, parameters, strict) of each tool; no name twice, and a schema that is one where it counts."""
    specs: list[ToolSpec] = []
    for at, (name, description, parameters, strict) in enumerate(tools):
        if any(spec.name == name for spec in specs):
            raise invalid(f"tools.{at}: there are two tools named {name!r}", param=f"tools.{at}.name")
        schema = {"type": "object", "properties": {}} if parameters is None else dict(parameters)
        if strict:
            try:
                complaint(schema, {})
            except ConfigError as error:
                raise invalid(f"tools.{at}: {error}", param=f"tools.{at}.parameters") from None
        specs.append(ToolSpec(name=name, description=description or "", parameters=schema))
    return tuple(specs)


def strict_names(tools: Iterable[tuple[str, bool | None]]) -> frozenset[str]:
    """The tools whose calls must fit their parameters."""
    return frozenset(name for name, strict in tools if strict)


def may_call(choice: Any, tools: bool) -> bool:
    """Whether the model may call, by OpenAI's `tool_choice`."""
    if choice == "none":
        return False
    if choice not in (None, "auto"):
        raise invalid(
            "tool_choice: only 'auto' and 'none' can be served: the model cannot be made to call",
            param="tool_choice",
            code="unsupported_parameter",
        )
    return tools


def one_of(name: str, first: Any, second: Any) -> Any:
    """A parameter that can be given in two places."""
    if first is not None and second is not None and first != second:
        raise invalid(f"{name} is given twice, and differently: {first!r} and {second!r}", param=name)
    return second if first is None else first


def arguments_text(call: ToolCall) -> str:
    """A call's arguments as clients get them."""
    return json.dumps(call.arguments, ensure_ascii=False)


class History:
    """Messages in the making. Parts of one answer that come as separate items become one message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._calls: set[str] = set()
        self._parts: list[Message] = []  # of the answer that is not complete yet

    def say(self, message: Message) -> None:
        """A message, as it came."""
        self._gather()
        self.messages.append(message)
        self._calls.update(call.id for call in message.tool_calls)

    def part(self, message: Message) -> None:
        """A piece of an answer; what follows it may be more of the same."""
        self._parts.append(message)
        self._calls.update(call.id for call in message.tool_calls)

    def _gather(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            text, reasoning = "".join(one.text for one in parts), "".join(one.reasoning for one in parts)
            calls = tuple(call for one in parts for call in one.tool_calls)
            self.messages.append(assistant(text, reasoning=reasoning, tool_calls=calls))

    def answers(self, call_id: str, where: str) -> None:
        """A tool's result is about to come. Raises `Fault` if no call before it has that id."""
        if call_id not in self._calls:
            raise invalid(f"{where}: no earlier call has the id {call_id!r}", param=where)

    def done(self, where: str) -> list[Message]:
        """All of them. Raises `Fault` if there is nothing to answer."""
        self._gather()
        if not self.messages:
            raise invalid(f"{where} is empty: there is nothing to answer", param=where)
        last = self.messages[-1].role
        if last == "assistant":
            raise invalid(
                f"{where} ends with the assistant's own message: to go on from a prefix is not supported", param=where
            )
        if last == "system" and not any(message.role != "system" for message in self.messages):
            raise invalid(f"{where} has nothing but system messages: there is nothing to answer", param=where)
        return self.messages
