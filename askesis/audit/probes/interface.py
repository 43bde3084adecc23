"""Whether the environment does what its own interface promises, where nobody does anything wrong."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from askesis.audit.ground import Ground
from askesis.audit.probe import Broken, Probe, Severity, Sighting, Tally
from askesis.envs.policies import RandomPolicy, legal
from askesis.types import AskesisError, ConfigError, Task, ToolSpec

_OWN = ("environment", "tool", "verifier", "agent", "engine")  # who may not end an episode of legal calls
_EPISODES = 3  # a task, each with other calls


async def run(ground: Ground) -> Sighting:
    """Look at tasks and at what tools say of themselves; make calls that their schemas allow."""
    seen = Tally()
    try:
        tasks = ground.tasks
    except Broken as error:
        return Sighting(hits=1, n=1, evidence=str(error))
    for task in tasks:
        seen.add(*_task(task), task=task.id)
    for task in tasks[:3]:
        for told in await _specs(ground, task):
            seen.add(*told, task=task.id)
    if seen.hits:  # calls would only show the same
        return seen.sighting()
    severity: Severity | None = "medium"  # where only some calls fail, and the oracle's do not
    for seed in range(_EPISODES):
        if ground.left_s <= 0:
            break
        for trace in await ground.play_each(lambda task, specs, seed=seed: RandomPolicy(specs, seed=seed, stop=0.05)):  # type: ignore[misc]
            ended = trace.outcome
            if ended.by == "tool" and ended.reason == "timeout":
                continue  # slow for this machine, which is another matter
            called = next((node.message.tool_calls for node in reversed(trace.nodes) if node.message.tool_calls), ())
            calls = ", ".join(f"{call.name}({json.dumps(call.arguments)[:200]})" for call in called)
            seen.add(
                ended.by in _OWN,
                f"a call that the schema allows, {calls}, ended the episode by {ended.by}, {ended.reason}: "
                f"{ended.detail[:600]}",
                task=trace.task.id,
            )
    if seen.hits > seen.n // 4:
        severity = None
    return seen.sighting(severity=severity)


def _task(task: Task) -> tuple[bool, str]:
    """Whether a task is none that can be stored and played."""
    if not isinstance(task.prompt, str) or not task.prompt.strip():
        return True, f"a task's prompt is {task.prompt!r}"
    try:
        json.dumps(task.data)
    except (TypeError, ValueError) as error:
        return True, f"a task's data is no JSON: {error}"
    return False, ""


async def _specs(ground: Ground, task: Task) -> list[tuple[bool, str]]:
    """What is wrong with the tools of a task: made here by hand, for a rollout would hide who is at fault."""
    try:
        state = await ground.env.setup(task)
    except AskesisError as error:
        return [(True, f"setup failed: {error}")]
    except Exception as error:
        return [(True, f"setup raised {type(error).__name__}: {error}")]
    try:
        return [_spec(getattr(tool, "spec", None)) for tool in ground.env.tools(task, state)]
    except Exception as error:
        return [(True, f"tools raised {type(error).__name__}: {error}")]
    finally:
        await state.close()


def _spec(spec: Any) -> tuple[bool, str]:
    if not isinstance(spec, ToolSpec):
        return True, f"a tool's spec is {spec!r}, expected a ToolSpec"
    if not isinstance(spec.name, str) or not spec.name.strip():
        return True, f"a tool's name is {spec.name!r}"
    try:
        json.dumps(spec.parameters)
        legal(spec.parameters, {})
        if spec.parameters.get("type", "object") != "object":
            return True, f"tool {spec.name!r}: its arguments are said to be {spec.parameters['type']!r}, not an object"
    except (ConfigError, TypeError, ValueError, AttributeError, RecursionError, jsonschema.ValidationError) as error:
        return True, f"tool {spec.name!r}: its parameters are no JSON Schema: {error}"
    except Exception as error:  # of a reference in it that leads nowhere
        return True, f"tool {spec.name!r}: its parameters cannot be used: {type(error).__name__}: {error}"
    return False, ""


PROBE = Probe(
    name="interface",
    axis="validity",
    flaw="broken interface",
    severity="high",
    about="tasks, tools and their schemas are what they should be, and calls that the schemas allow do no harm",
    run=run,
    seconds=1.5,
)
