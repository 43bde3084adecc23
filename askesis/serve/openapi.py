"""The gateway's own description, from the schemas that it reads requests with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from askesis.serve.messages import CountRequest
from askesis.serve.wire import Wire

_TITLES = {
    "/v1/chat/completions": "OpenAI Chat Completions",
    "/v1/responses": "OpenAI Responses",
    "/v1/messages": "Anthropic Messages",
    "/v1/messages/count_tokens": "Anthropic's count of a prompt's tokens",
}
_FAULTS = {
    "400": "A parameter is wrong, or cannot be served: the message says which and why.",
    "401": "No key, or an unknown one.",
    "404": "No such model.",
    "409": "The session takes no further turn.",
    "413": "The body is too large.",
    "429": "One of the key's limits; `retry-after` says when to come again.",
    "503": "Too much to do, or stopping; `retry-after` says when to come again.",
    "504": "No whole answer within the time there is.",
}


def describe(wires: Mapping[str, Wire]) -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    bodies = {path: wire.schema for path, wire in wires.items()} | {"/v1/messages/count_tokens": CountRequest}
    for path, model in bodies.items():
        prefix = path.removeprefix("/v1/").replace("/", "_")
        schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}.{{model}}")
        schemas |= {f"{prefix}.{name}": part for name, part in schema.pop("$defs", {}).items()}
        schemas[f"{prefix}.Request"] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{prefix}.Request"}}}
        paths[path] = {
            "post": {
                "summary": _TITLES[path],
                "operationId": prefix,
                "requestBody": {"required": True, "content": content},
                "responses": {"200": _answer("The answer.")} | {code: _answer(text) for code, text in _FAULTS.items()},
            }
        }
    paths["/v1/models"] = {"get": _get("models", "The models that are served.")}
    paths["/health"] = {"get": _get("health", "Whether it is up.")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Askesis gateway", "version": version("askesis")},
        "servers": [
            {"url": "/"},
            {
                "url": "/s/{session}",
                "description": "the same, as a session of its own",
                "variables": {"session": {"default": "mine"}},
            },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],
    }


def _answer(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {}}}


def _get(name: str, text: str) -> dict[str, Any]:
    return {"summary": text, "operationId": name, "responses": {"200": _answer(text), "401": _answer(_FAULTS["401"])}}
