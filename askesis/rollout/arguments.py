"""Tool arguments against a tool's JSON Schema: what the policy got wrong, in words that it can act on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jsonschema
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator

from askesis.types import ConfigError


def complaint(schema: Mapping[str, Any] | str, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with `arguments`, or None. schema: may be JSON already. Raises `ConfigError` if it is no schema."""
    error = best_match(_validator(schema if isinstance(schema, str) else json.dumps(schema)).iter_errors(arguments))
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
