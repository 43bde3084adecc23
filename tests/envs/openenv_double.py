"""A server that speaks as OpenEnv's do, and fails where it is asked to: what `openenv-core` 0.3 was seen to send."""

import asyncio
import os

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

ACTION = {
    "type": "object",
    "title": "AddAction",
    "additionalProperties": False,
    "properties": {
        "metadata": {"type": "object", "additionalProperties": True},
        "number": {"type": "integer", "minimum": 1, "maximum": 9},
        "how": {"$ref": "#/$defs/How"},
    },
    "required": ["number"],
    "$defs": {"How": {"enum": ["up", "down", "hang", "raise", "leave", "die", "babble"]}},
}
CALL = {
    "type": "object",
    "properties": {
        "metadata": {"type": "object"},
        "type": {"const": "call_tool", "default": "call_tool"},
        "tool_name": {"type": "string"},
        "arguments": {"type": "object"},
    },
    "required": ["tool_name"],
}
TOOLS = [
    {
        "name": "add",
        "description": "Add two numbers.",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
    {"name": "lose", "description": "Fail.", "input_schema": {"type": "object", "properties": {}}},
]
open_sessions = 0


def error(code, message, **more):
    return {"type": "error", "data": {"message": message, "code": code, **more}}


def observation(done=False, reward=None, **fields):
    return {"type": "observation", "data": {"observation": fields, "reward": reward, "done": done}}


class Adding:
    """Come to 10."""

    def __init__(self):
        self.total = None

    async def reset(self, data):
        self.total = data.get("seed", 0) % 5 + data.get("more", 0)
        return observation(message=f"at {self.total}")

    async def step(self, data):
        number, how = data.get("number"), data.get("how", "up")
        if not isinstance(number, int) or set(data) - {"number", "how"}:
            return error("VALIDATION_ERROR", "Invalid message", errors=[{"loc": ["number"], "msg": "no integer"}])
        if how == "hang":
            await asyncio.sleep(1e4)
        if how == "die":
            os._exit(3)
        if how == "leave":
            raise WebSocketDisconnect
        if how == "raise":
            return error("EXECUTION_ERROR", "the dice are lost")
        if how == "babble":
            return ["what?"]
        self.total += number if how == "up" else -number
        return observation(done=self.total >= 10, reward=float(self.total == 10), total=self.total, seen=[number, how])


class Calling:
    """The same by calls of tools."""

    async def reset(self, data):
        return observation(message="ready")

    async def step(self, data):
        if data["type"] == "list_tools":
            return observation(tools=TOOLS)
        if data["tool_name"] == "lose":
            return observation(tool_name="lose", result=None, error={"error_type": "x", "message": "it is lost"})
        total = data["arguments"]["a"] + data["arguments"]["b"]
        result = {"content": [{"type": "text", "text": f"{total}"}], "data": total}
        return observation(tool_name="add", result=result, error=None, done=total == 10, reward=total / 10)


def serving(kind, schema, most):
    async def session(socket):
        global open_sessions
        await socket.accept()
        env = kind()
        if open_sessions >= most:
            await socket.send_json(error("CAPACITY_REACHED", "all taken"))
            await socket.close()
            return
        open_sessions += 1
        try:
            while (message := await socket.receive_json())["type"] != "close":
                answer = await getattr(env, message["type"])(message.get("data", {}))
                await socket.send_json(answer)
        except WebSocketDisconnect:
            pass
        finally:
            open_sessions -= 1
        await socket.close()

    def get(content):
        async def answer(request):
            return JSONResponse(content)

        return answer

    return Starlette(
        routes=[
            Route("/health", get({"status": "healthy"})),
            Route("/schema", get({"action": schema, "observation": {}, "state": {}})),
            Route("/metadata", get({"name": "adding", "description": kind.__doc__})),
            WebSocketRoute("/ws", session),
        ]
    )


STEADY = ACTION | {"$defs": {"How": {"enum": ["up", "down"]}}}
app = serving(Adding, ACTION, 8)
steady = serving(Adding, STEADY, 8)
narrow = serving(Adding, ACTION, 1)
calling = serving(Calling, CALL, 8)


def ten(task):
    """The way to 10, in single digits."""
    left = 10 - task.data["seed"] % 5 - task.data["kwargs"].get("more", 0)
    numbers = [9] * (left // 9) + [left % 9] * (left % 9 > 0)
    return [{"tool": "step", "arguments": {"number": number}} for number in numbers]


def shown(observation):
    return f"<{observation}>"
