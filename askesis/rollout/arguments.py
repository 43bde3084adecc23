"""Tool arguments against a tool's JSON Schema: what the policy got wrong, in words that it can act on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator

from askesis.types import ConfigError


def complaint(schema: Mapping[str, Any] | str, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with `arguments`, or None. schema: may be JSON already. Raises `ConfigError` if it is no schema."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    flat = _flat(text)
    if flat is not None and flat.takes(arguments):
        return None
    error = best_match(_validator(text).iter_errors(arguments))
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    message = error.message if len(error.message) <= 200 else error.message[:200] + "..."
    return f"{where}: {message}" if where else message


@lru_cache(maxsize=1024)
def _validator(schema: str) -> Validator:
    loaded = json.loads(schema)
    kind = jsonschema.validators.validator_for(loaded, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(loaded)
    except SchemaError as error:
        raise ConfigError(f"a tool's parameters are no JSON Schema: {error.message}") from error
    return kind(loaded)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(frozen=True, slots=True)
class _Flat:
    """What most schemas of tools are: names with a type each. For them looking is enough to see that all is well."""

    types: Mapping[str, tuple[type, ...]]
    required: frozenset[str]
    closed: bool

    def takes(self, arguments: Mapping[str, Any]) -> bool:
        """Whether these are certainly right; where not, the validator says what is wrong, if anything is."""
        for name, value in arguments.items():
            types = self.types.get(name)
            if types is None:
                if self.closed:
                    return False
            elif type(value) not in types:
                return False
        return self.required <= arguments.keys()


@lru_cache(maxsize=1024)
def _flat(text: str) -> _Flat | None:
    """The schema, if it says nothing that `_Flat` does not look at."""
    _validator(text)  # it is a schema
    schema = json.loads(text)
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    properties, closed = schema.get("properties", {}), schema.get("additionalProperties", True)
    known = {"type", "properties", "required", "additionalProperties", "title", "description"}
    if not isinstance(closed, bool) or not schema.keys() <= known:
        return None
    types = {}
    for name, each in properties.items():
        if not isinstance(each, dict) or not each.keys() <= {"type", "title", "description", "default"}:
            return None
        if not isinstance(kind := each.get("type"), str) or kind not in _TYPES:
            return None
        types[name] = _TYPES[kind]
    return _Flat(types, frozenset(schema.get("required", ())), not closed)
