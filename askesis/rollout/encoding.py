"""Traces as bytes and JSON, without loss: messages as JSON text, arrays as raw numpy bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from askesis.types import (
    Artifact,
    Fork,
    Limits,
    Message,
    Node,
    Outcome,
    ParseFailure,
    Reasoning,
    Reward,
    Task,
    Text,
    Thinking,
    Timing,
    ToolCall,
    ToolEvent,
    Trace,
)


def task_to_json(task: Task) -> str:
    """Everything about a task, in a text that is equal for equal tasks."""
    return json.dumps(
        {
            "env": task.env,
            "prompt": task.prompt,
            "data": dict(task.data),
            "limits": asdict(task.limits),
            "split": task.split,
            "id": task.id,
        },
        sort_keys=True,
    )


def task_from_json(text: str) -> Task:
    """The inverse of `task_to_json`."""
    values = json.loads(text)
    return Task(**values | {"limits": Limits(**values["limits"])})


def body_to_json(trace: Trace) -> str:
    """A trace without its task and its arrays."""
    nodes = [
        [
            node.parent,
            message_to_json(node.message),
            node.sampled,
            len(node.token_ids),
            node.finish_reason,
            node.started_s,
            node.ended_s,
            node.thinking_tokens,
            node.forced_close,
            node.temperature,
        ]
        for node in trace.nodes
    ]
    return json.dumps(
        {
            "harness": trace.harness,
            "nodes": nodes,
            "rewards": [[r.name, r.value, r.weight, r.evidence] for r in trace.rewards],
            "outcome": _outcome_values(trace.outcome),
            "timing": asdict(trace.timing),
            "thinking": [
                trace.thinking.enabled,
                trace.thinking.budget,
                trace.thinking.effort,
                trace.thinking.episode_budget,
            ],
            "tools": [[e.node, e.name, e.seconds, e.status, e.fault] for e in trace.tool_events],
            "seed": trace.seed,
            "attempt": trace.attempt,
            "temperature": trace.temperature,
            "group": trace.group,
            "log": trace.log,
            "forks": [
                [f.root, f.origin, f.kind, f.name, None if f.outcome is None else _outcome_values(f.outcome)]
                for f in trace.forks
            ],
            "artifacts": [[a.name, a.media_type, a.node, a.call] for a in trace.artifacts],
            "schema": trace.schema,
        }
    )


def arrays_to_bytes(trace: Trace) -> tuple[bytes, bytes, bytes, bytes]:
    """(token_ids int32, mask as packed bits, logprobs float32, policy_versions int32) of all nodes, joined."""
    if not trace.nodes:
        return b"", b"", b"", b""
    nodes = trace.nodes
    return (
        np.concatenate([node.token_ids for node in nodes], dtype=np.int32).tobytes(),
        np.packbits(np.concatenate([node.mask for node in nodes], dtype=np.bool_)).tobytes(),
        np.concatenate([node.logprobs for node in nodes], dtype=np.float32).tobytes(),
        np.concatenate([node.policy_versions for node in nodes], dtype=np.int32).tobytes(),
    )


def trace_from(
    id: str, task: Task, body: str, arrays: Sequence[bytes], artifacts: Callable[[], Sequence[bytes]] = lambda: ()
) -> Trace:
    """The inverse of `body_to_json` and `arrays_to_bytes`. Raises `ValueError` or `KeyError` for what is none.

    artifacts: gives their data, and is only asked where there are some.
    """
    values: Mapping[str, Any] = json.loads(body)
    tokens = np.frombuffer(arrays[0], dtype=np.int32)
    mask = np.unpackbits(np.frombuffer(arrays[1], dtype=np.uint8), count=len(tokens)).astype(np.bool_)
    logprobs = np.frombuffer(arrays[2], dtype=np.float32)
    versions = np.frombuffer(arrays[3], dtype=np.int32)
    counts = [node[3] for node in values["nodes"]]
    if not len(tokens) == len(logprobs) == len(versions) == sum(counts):
        raise ValueError(
            f"{len(tokens)} tokens, {len(logprobs)} logprobs, {len(versions)} versions, {sum(counts)} told"
        )
    nodes, end = [], 0
    for parent, message, sampled, count, finish, started, ended, thought, forced, *temperature in values["nodes"]:
        start, end = end, end + count
        nodes.append(
            Node(
                parent=parent,
                message=message_from_json(message),
                sampled=sampled,
                token_ids=tokens[start:end],
                mask=mask[start:end],
                logprobs=logprobs[start:end],
                policy_versions=versions[start:end],
                finish_reason=finish,
                started_s=started,
                ended_s=ended,
                thinking_tokens=thought,
                forced_close=forced,
                temperature=temperature[0] if temperature else None,
            )
        )
    enabled, budget, effort, *rest = values["thinking"]  # early traces have three
    return Trace(
        id=id,
        task=task,
        harness=values["harness"],
        nodes=tuple(nodes),
        rewards=tuple(Reward(name=n, value=v, weight=w, evidence=e) for n, v, w, e in values["rewards"]),
        outcome=_outcome(values["outcome"]),
        timing=Timing(**values["timing"]),
        thinking=Thinking(enabled=enabled, budget=budget, effort=effort, episode_budget=next(iter(rest), None)),
        tool_events=tuple(
            ToolEvent(node=n, name=t, seconds=s, status=k, fault=next(iter(fault), ""))
            for n, t, s, k, *fault in values["tools"]  # early traces have four
        ),
        seed=values["seed"],
        attempt=values["attempt"],
        temperature=values["temperature"],
        group=values["group"],
        log=values.get("log", ""),
        forks=tuple(
            Fork(root=root, origin=origin, kind=kind, name=name, outcome=None if ended is None else _outcome(ended))
            for root, origin, kind, name, ended in values.get("forks", ())
        ),
        artifacts=_artifacts(values.get("artifacts", ()), artifacts),
        schema=values["schema"],
    )


def _artifacts(told: Sequence[Sequence[Any]], data: Callable[[], Sequence[bytes]]) -> tuple[Artifact, ...]:
    found = data() if told else ()
    if len(found) != len(told):
        raise ValueError(f"{len(told)} artifacts are told, there are {len(found)}")
    return tuple(
        Artifact(name=name, media_type=media_type, data=bytes(content), node=node, call=call)
        for (name, media_type, node, call), content in zip(told, found, strict=True)
    )


def _outcome_values(outcome: Outcome) -> list[str]:
    return [outcome.by, outcome.reason, outcome.detail]


def _outcome(values: Sequence[Any]) -> Outcome:
    by, reason, detail = values
    return Outcome(by=by, reason=reason, detail=detail)


def message_to_json(message: Message) -> dict[str, Any]:
    """A message as plain JSON values; what is empty is left out."""
    full = {
        "role": message.role,
        "parts": [["think" if isinstance(part, Reasoning) else "text", part.text] for part in message.parts],
        "calls": [[c.id, c.name, c.arguments, c.raw] for c in message.tool_calls],
        "answers": message.tool_call_id,
        "failures": [[f.kind, f.detail, f.raw, f.syntax] for f in message.failures],
    }
    return {key: value for key, value in full.items() if value or (key == "answers" and value is not None)}


def message_from_json(values: Mapping[str, Any]) -> Message:
    """The inverse of `message_to_json`."""
    return Message(
        role=values["role"],
        parts=tuple(Reasoning(text=t) if kind == "think" else Text(text=t) for kind, t in values.get("parts", ())),
        tool_calls=tuple(ToolCall(id=i, name=n, arguments=a, raw=r) for i, n, a, r in values.get("calls", ())),
        tool_call_id=values.get("answers"),
        failures=tuple(
            ParseFailure(kind=k, detail=d, raw=r, syntax=next(iter(rest), "json"))
            for k, d, r, *rest in values.get("failures", ())
        ),
    )
