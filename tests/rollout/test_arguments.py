"""The short way past a schema says nothing else than the long one."""

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.rollout import complaint
from askesis.types import ConfigError

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([1.0, 1.5]), st.text(max_size=2),
    st.lists(st.integers(), max_size=1), st.dictionaries(st.text(max_size=1), st.none(), max_size=1),
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "c"])
KINDS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "number", "boolean", "array", "object"])}),
    st.sampled_from([{}, {"type": ["string", "null"]}, {"type": "string", "minLength": 1}, {"type": "null"}]),
)
SCHEMAS = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(NAMES, KINDS)},
    optional={
        "required": st.lists(NAMES, unique=True),
        "additionalProperties": st.booleans(),
        "maxProperties": st.just(1),
    },
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(schema=SCHEMAS, arguments=st.dictionaries(NAMES, VALUES))
def test_what_is_complained_about_is_what_the_validator_finds(schema, arguments):
    right = jsonschema.Draft202012Validator(schema).is_valid(arguments)
    assert (complaint(schema, arguments) is None) == right == (complaint(json.dumps(schema), arguments) is None)


@pytest.mark.parametrize("wrong", [{"properties": None}, {"properties": []}, {"required": None}, {"type": "objekt"}])
def test_what_is_no_schema_is_said_to_be_none(wrong):
    with pytest.raises(ConfigError, match="no JSON Schema"):
        complaint({"type": "object"} | wrong, {})
