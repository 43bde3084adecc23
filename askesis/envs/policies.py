"""Policies that know nothing of a task, for every environment: one that does nothing, one that makes legal calls.

What they get is what an environment gives away; a reward that a model earns is worth what lies above it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import jsonschema
from jsonschema.protocols import Validator

from askesis.types import ConfigError, Message, Thinking, ToolCall, ToolSpec, assistant, nearest

Nothing = Literal["stop", "whitespace", "echo", "submit"]
SUBMITS = ("submit", "answer", "finish", "done", "final_answer", "complete", "stop")
_TRIES = 30  # arguments drawn for one call before the tool counts as one that nothing is known to fit
_RECENT = 4  # messages whose words are drawn as often as those of all others together
_WORD = re.compile(r"[^\s\"'`,;:()\[\]{}<>|]+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DEPTH = 6


class NullPolicy:
    """Does nothing that could earn a reward.

    how: `stop` says nothing and calls nothing, `whitespace` says a blank, `echo` repeats the prompt, `submit` calls a
    tool that submits (one of `SUBMITS`, by its name) at once, with the emptiest arguments that its schema allows; where
    `tools` have none such, it stops. Raises `ConfigError` for another `how`.
    """

    def __init__(self, tools: Sequence[ToolSpec] = (), *, how: Nothing = "stop") -> None:
        if how not in get_args(Nothing):
            known = get_args(Nothing)
            raise ConfigError(f"NullPolicy: how={how!r}{nearest(how, known)} (expected one of {', '.join(known)})")
        self._how = how
        self._submit = next((tool for name in SUBMITS for tool in tools if tool.name == name), None)

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next message."""
        if self._how == "whitespace":
            return assistant(" \n")
        if self._how == "echo":
            return assistant(next((message.text for message in messages if message.role == "user"), ""))
        if self._how == "submit" and self._submit is not None:
            arguments = emptiest(self._submit.parameters)
            return assistant(tool_calls=(ToolCall(id="call_0", name=self._submit.name, arguments=arguments),))
        return assistant()


class RandomPolicy:
    """Calls random tools with random arguments that their schemas allow, until something ends the episode.

    Strings are words, lines and numbers of the conversation more often than not, so that calls are plausible. A tool
    for which no legal arguments are found (a pattern that nothing fits) is not called. Deterministic in `seed`, the
    tools and the conversation. stop: probability of stopping in place of a call.
    """

    def __init__(self, tools: Sequence[ToolSpec], *, seed: int, stop: float = 0.0) -> None:
        self._tools, self._stop = tuple(tools), stop
        self._rng = random.Random(f"random policy/{seed}")

    def act(self, messages: Sequence[Message], thinking: Thinking) -> Message:
        """The next call; without one where no tool can be called."""
        rng = self._rng
        if rng.random() < self._stop:
            return assistant()
        seen = _Seen(messages)
        for tool in rng.sample(self._tools, len(self._tools)):
            arguments = _arguments(tool, rng, seen)
            if arguments is not None:
                return assistant(tool_calls=(ToolCall(id="call_0", name=tool.name, arguments=arguments),))
        return assistant()


class _Seen:
    """What there is in a conversation to make arguments of."""

    def __init__(self, messages: Sequence[Message]) -> None:
        texts = [message.text for message in messages if message.role in ("user", "tool") and message.text]
        self.texts = texts + texts[-_RECENT:]  # the newest twice
        self.words = [word.strip(".!?") or word for text in self.texts for word in _WORD.findall(text)]
        self.lines = [line.strip() for text in self.texts for line in text.splitlines() if line.strip()]
        self.numbers = [float(number) for text in self.texts for number in _NUMBER.findall(text)]


def legal(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether `value` fits the JSON Schema. Raises `ConfigError` where it is none."""
    return bool(_validator(json.dumps(schema)).is_valid(value))


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Validator:
    loaded = json.loads(schema)
    kind = jsonschema.validators.validator_for(loaded, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(loaded)
    except jsonschema.exceptions.SchemaError as error:
        raise ConfigError(f"a tool's parameters are no JSON Schema: {error.message}") from error
    return kind(loaded)


def emptiest(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with as little in them as `schema` allows, as far as is easily known: required ones, empty or 0."""
    value = _Drawn(schema, None, _Seen(())).value(schema, 0)
    return value if isinstance(value, dict) else {}


def _arguments(tool: ToolSpec, rng: random.Random, seen: _Seen) -> dict[str, Any] | None:
    drawn = _Drawn(tool.parameters, rng, seen)
    for _ in range(_TRIES):
        value = drawn.value(tool.parameters, 0)
        if isinstance(value, dict) and legal(tool.parameters, value):
            return value
    return None


class _Drawn:
    """Values out of a JSON Schema. rng: None takes the emptiest of all. Whether a value fits is for others to check."""

    def __init__(self, root: Mapping[str, Any], rng: random.Random | None, seen: _Seen) -> None:
        self._root, self._rng, self._seen = root, rng, seen

    def value(self, schema: Any, depth: int) -> Any:
        """One value."""
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return self._string({})
        if "$ref" in schema:
            return self.value(self._referred(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(list(schema["enum"]))
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self.value(self._choice(list(schema[key])), depth + 1)
        if schema.get("allOf"):
            merged: dict[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                merged = _merged(merged, part)
            return self.value(merged, depth + 1)
        return self._of_type(schema, depth)

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = self._choice(kind)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean":
            return self._choice([False, True])
        return None if kind == "null" else self._string(schema)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        return {
            name: self.value(part, depth + 1)
            for name, part in schema.get("properties", {}).items()
            if name in required or self._chance(0.5)
        }

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = [self.value(part, depth + 1) for part in schema.get("prefixItems", ())]
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, 3)))
        count = least if self._rng is None else self._rng.randint(least, max(least, min(most, least + 3)))
        items = schema.get("items", {"type": "string"})
        rest = [self.value(items, depth + 1) for _ in range(len(first), count)] if items is not False else []
        return first + rest

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        step = schema.get("multipleOf", 1 if whole else None)
        if "minimum" not in schema and low is not None:
            low += step or 1e-3
        if "maximum" not in schema and high is not None:
            high -= step or 1e-3
        value: float = 0.0
        if self._rng is not None:
            span = (low if low is not None else 0, high if high is not None else (low or 0) + 20)
            value = self._rng.uniform(*span) if span[0] <= span[1] else float(span[0])
            fits = [n for n in self._seen.numbers if (low is None or n >= low) and (high is None or n <= high)]
            if fits and self._chance(0.5):
                value = self._rng.choice(fits)
        if step:
            value = round(value / step) * step
        value = value if low is None else max(value, low)
        value = value if high is None else min(value, high)
        return int(value) if whole else value

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        rng, seen = self._rng, self._seen
        if rng is None:
            return "x" * least
        if "pattern" in schema and (fits := self._matching(str(schema["pattern"]))):
            return str(rng.choice(fits))
        pools = [seen.words, seen.words, seen.words, seen.lines, [f"{n:g}" for n in seen.numbers]]
        pool = rng.choice(pools)
        text = str(rng.choice(pool)) if pool else rng.choice(("a", "", "0", "test"))
        if seen.words and self._chance(0.15):
            text = " ".join(rng.choice(seen.words) for _ in range(rng.randint(2, 4)))
        text += "x" * (least - len(text))
        return text if most is None else text[: int(most)]

    def _matching(self, pattern: str) -> list[str]:
        try:
            wanted = re.compile(pattern)
        except re.error:
            return []
        found = {word for word in (*self._seen.words, *self._seen.lines) if wanted.search(word)}
        return sorted(found)

    def _referred(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part, {}) if isinstance(found, Mapping) else {}
        return found

    def _choice(self, values: list[Any]) -> Any:
        return values[0] if self._rng is None else self._rng.choice(values)

    def _chance(self, probability: float) -> bool:
        return self._rng is not None and self._rng.random() < probability


def _merged(one: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Two schemas that both hold, as one; a value is checked later."""
    if not isinstance(other, Mapping):
        return dict(one)
    both = {**one, **other}
    for key in ("properties", "required"):
        if key in one and key in other:
            kind = dict if key == "properties" else list
            both[key] = kind(one[key]) | kind(other[key]) if kind is dict else [*one[key], *other[key]]
    return both
