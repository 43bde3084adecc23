"""A process that plays recorded episodes for another one: `python -m askesis.audit.elsewhere FD`.

It is told on stdin which environment, which tasks and what is said; it answers on the descriptor FD with what its own
tasks are and what the episodes came to. Its hash seed, time zone and locale are the caller's doing, the clock its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from askesis.audit.ground import Ground, Recited
from askesis.audit.probe import Inconclusive
from askesis.audit.recordings import Recording, Seen
from askesis.types import Message, ToolCall, assistant

MANY_DAYS = 400 * 86400.0 + 7 * 3600.0  # another year, day, weekday and hour
OTHERWISE = {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "LANG": "C"}


async def played_elsewhere(
    ground: Ground, chosen: Sequence[Recording], *, variables: Mapping[str, str], later_s: float
) -> tuple[list[str], list[Seen]]:
    """The ids of the tasks that another process has, and what `chosen` came to there. Raises `Inconclusive`."""
    told = {
        "env": ground.name,
        "options": dict(ground.options),
        "seed": ground.seed,
        "count": ground.count,
        "first": ground.first,
        "later_s": later_s,
        "episodes": [[one.task.id, [_plain(message) for message in one.messages]] for one in chosen],
        "helpers": {key: _plain(message) for key, message in ground.helpers.items()},
    }
    seconds = max(5.0, min(60.0, ground.left_s))
    with tempfile.TemporaryFile() as answer:  # no pipe: what is written to it never waits for a reader
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "askesis.audit.elsewhere", str(answer.fileno())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(answer.fileno(),),
            start_new_session=True,
            env=os.environ | dict(variables),
        )
        try:
            _, words = await asyncio.wait_for(process.communicate(json.dumps(told).encode()), seconds)
        except TimeoutError:
            raise Inconclusive(f"another process did not play the episodes within {seconds:.0f} s") from None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        answer.seek(0)
        try:
            found = json.loads(answer.read())
        except ValueError:
            raise Inconclusive(f"another process could not play: {words.decode(errors='replace')[-600:]}") from None
    return found["tasks"], [_seen(*one) for one in found["episodes"]]


def _seen(heard: list[str], end: str, rewards: list[tuple[str, float]], learnable: bool) -> Seen:
    return Seen(tuple(heard), end, tuple((name, value) for name, value in rewards), learnable)


def _plain(message: Message) -> list[Any]:
    return [message.text, [[call.name, dict(call.arguments)] for call in message.tool_calls]]


def _message(text: str, calls: list[tuple[str, dict[str, Any]]]) -> Message:
    made = [ToolCall(id=f"call_{n}", name=name, arguments=arguments) for n, (name, arguments) in enumerate(calls)]
    return assistant(text, tool_calls=tuple(made))


_DATE, _DATETIME = datetime.date, datetime.datetime
_AHEAD = datetime.timedelta(0)


class _Kind(type):
    """What was made by the original is one of these too."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _DATETIME if issubclass(cls, _DATETIME) else _DATE)


class _Moment(datetime.datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _DATETIME.now(tz) + _AHEAD

    @classmethod
    def utcnow(cls) -> Any:
        return _DATETIME.now(datetime.UTC).replace(tzinfo=None) + _AHEAD

    @classmethod
    def today(cls) -> Any:
        return cls.now()


class _Day(datetime.date, metaclass=_Kind):
    @classmethod
    def today(cls) -> Any:
        return (_DATETIME.now() + _AHEAD).date()


def _shift(seconds: float) -> None:
    """Let this process's clock be later, before the environment is loaded; what only measures time is not touched."""
    global _AHEAD
    _AHEAD = datetime.timedelta(seconds=seconds)
    real, real_ns, local, universal = time.time, time.time_ns, time.localtime, time.gmtime
    later: dict[str, Any] = {
        "time": lambda: real() + seconds,
        "time_ns": lambda: real_ns() + int(seconds * 1e9),
        "localtime": lambda at=None: local(time.time() if at is None else at),
        "gmtime": lambda at=None: universal(time.time() if at is None else at),
    }
    for name, function in later.items():
        setattr(time, name, function)
    for name, kind in {"datetime": _Moment, "date": _Day}.items():
        setattr(datetime, name, kind)


async def _play(told: Mapping[str, Any]) -> Mapping[str, Any]:
    from askesis.envs import load_env

    env = load_env(told["env"], **told["options"])
    helpers = {key: _message(*one) for key, one in told["helpers"].items()}
    ground = Ground(env=env, seed=told["seed"], count=told["count"], first=told["first"], helpers=helpers)
    try:
        tasks = {task.id: task for task in ground.tasks}
        found = []
        for name, messages in told["episodes"]:
            if name in tasks:
                script = [_message(*one) for one in messages]
                seen = Seen.of(await ground.play(tasks[name], lambda task, specs, script=script: Recited(script)))  # type: ignore[misc]
                found.append([list(seen.heard), seen.end, list(seen.rewards), seen.learnable])
            else:
                found.append([[], "no such task", [], False])
        return {"tasks": list(tasks), "episodes": found}
    finally:
        await env.close()


def main() -> None:
    """Play what stdin tells."""
    told = json.loads(sys.stdin.read())
    if told["later_s"]:
        _shift(told["later_s"])
    os.write(int(sys.argv[1]), json.dumps(asyncio.run(_play(told))).encode())


if __name__ == "__main__":
    main()
