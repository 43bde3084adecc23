"""The process in which environments of the Gymnasium kind live: it makes, resets and steps them, one call at a time.

It reads requests, a JSON object a line, and answers each with one. Whatever the environments print goes to stderr. It
ends when its input does, and when the process that started it is gone.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import random
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from askesis.envs.adapters.gym_spaces import Unfit, action_of, schema_of, told, uncoloured
from askesis.envs.adapters.hooks import hook
from askesis.envs.registry import _from_file
from askesis.tools.rendering import bounded

_LOOK_S = 1.0
_SECTION = re.compile(r"^[ \t]*#+[ \t]+(.+?)[ \t]*$", re.MULTILINE)
_TOLD = ("description", "action space", "actions", "rewards", "reward", "episode end", "goal", "rules")
_VALUES = ("observation space", "observations", "observation")


class Wanted:
    """Which environment, and how it is shown; made of the plain values that a request brings."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.target: str = values["target"]
        self.observe: str = values["observe"]
        self.names: list[str] = list(values["actions"])
        self.success_key: str = values["success_key"]
        self.output: int = values["output"]
        self.show: Callable[..., Any] | None = hook(values["show"], "show") if values["show"] else None
        self.draws: bool | None = None  # whether the environment draws text, once that is known


class Episode:
    """An environment that was made, and what it showed last."""

    def __init__(self, wanted: Wanted, kwargs: Mapping[str, Any]) -> None:
        self._wanted = wanted
        self.env, self.draws = made(wanted, kwargs)
        self.space = getattr(self.env, "action_space", None)
        self.schema = schema_of(self.space, wanted.names)

    def reset(self, seed: int) -> str:
        """Begin anew; the first observation."""
        env = self.env
        if _takes(env.reset, "seed"):
            given = env.reset(seed=seed)
        else:
            if callable(getattr(env, "seed", None)):
                env.seed(seed)
            given = env.reset()
        pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)
        observation, info = given if pair else (given, {})
        return self._shown(observation, info)

    def step(self, given: Any) -> dict[str, Any]:
        """Take an action. Raises `Unfit` where it is none."""
        observation, reward, terminated, truncated, info = self._stepped(
            action_of(self.space, given, self._wanted.names)
        )
        key = self._wanted.success_key
        return {
            "text": self._shown(observation, info),
            "reward": float(reward),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "success": bool(info.get(key)) if key else None,
        }

    def _stepped(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """What newer environments' `step` gives."""
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) not in (4, 5):
            raise TypeError(
                f"step gave {type(result).__name__} {result!r:.100}: expected (observation, reward, terminated, "
                "truncated, info) or (observation, reward, done, info)"
            )
        if len(result) == 5:
            return result
        observation, reward, done, info = result  # as older environments have it
        truncated = bool(done) and bool(info.get("TimeLimit.truncated"))
        return observation, reward, bool(done) and not truncated, truncated, info

    def played(self, seed: int, steps: int) -> list[float]:
        """The rewards of random play, as far as it comes in so many steps; none where no action can be drawn."""
        rng, space, names = random.Random(seed), self.space, self._wanted.names
        if space is None and not names:
            return []
        self.reset(seed)
        if space is not None:
            space.seed(seed)
        rewards: list[float] = []
        for _ in range(steps):
            action = rng.choice(names) if space is None else space.sample()
            try:
                _, reward, terminated, truncated, _ = self._stepped(action)
            except Exception:  # what it raises is no reward
                break
            if math.isfinite(reward):
                rewards.append(float(reward))
            if terminated or truncated:
                break
        return rewards

    def _shown(self, observation: Any, info: Any) -> str:
        if self._wanted.show is not None:
            said = self._wanted.show(observation, info)
            if not isinstance(said, str):
                raise TypeError(f"the function `show` gave a {type(said).__name__}, expected a text")
            return bounded(said, self._wanted.output)
        parts = []
        if self.draws:
            parts.append(uncoloured(_drawn(self.env.render())).strip("\n"))
        if self._wanted.observe != "ansi" and not (self.draws and self._wanted.observe == "auto"):
            parts.append(told(observation))
        return bounded("\n".join(parts), self._wanted.output)

    def about(self) -> str:
        """What the environment says of itself: of its docstring, the parts that a player needs."""
        inner = getattr(self.env, "unwrapped", self.env)
        text = inspect.cleandoc(type(inner).__doc__ or "")
        return told_of(text, values=not self.draws)

    def close(self) -> None:
        """Close it."""
        if callable(getattr(self.env, "close", None)):
            self.env.close()


def told_of(text: str, *, values: bool) -> str:
    """The beginning of a docstring and its sections on what is to be done. values: and on what observations mean."""
    parts = _SECTION.split(text)
    kept = [parts[0].strip()]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title.lower() in _TOLD or (values and title.lower() in _VALUES):
            kept.append(f"{title}:\n{inspect.cleandoc(chr(10) + body).strip()}")
    return "\n\n".join(part for part in kept if part)


def _drawn(picture: Any) -> str:
    if hasattr(picture, "getvalue"):
        picture = picture.getvalue()
    if isinstance(picture, list | tuple):
        picture = "\n".join(map(str, picture))
    return str(picture)


def made(wanted: Wanted, kwargs: Mapping[str, Any]) -> tuple[Any, bool]:
    """The environment, and whether it draws its observations as text."""
    make, drawable = _maker(wanted.target)
    if "render_mode" in kwargs or wanted.show is not None or wanted.observe == "values":
        return make(**kwargs), kwargs.get("render_mode") == "ansi"
    if wanted.draws is None:
        env = make(**kwargs)
        modes = (getattr(env, "metadata", None) or {}).get("render_modes", ())
        wanted.draws = drawable and "ansi" in modes
        if not wanted.draws and wanted.observe in ("ansi", "both"):
            said = ", ".join(sorted(modes)) or "none"
            raise Unfit(f"observe={wanted.observe!r}: {wanted.target} draws no text (its render modes: {said})")
        if not wanted.draws:
            return env, False
        if callable(getattr(env, "close", None)):
            env.close()
    return (make(**kwargs, render_mode="ansi"), True) if wanted.draws else (make(**kwargs), False)


def _maker(target: str) -> tuple[Callable[..., Any], bool]:
    """What makes the environment, and whether it takes a `render_mode`."""
    place, colon, attribute = target.rpartition(":")
    if colon and place.endswith(".py"):
        found = getattr(_from_file(Path(place)), attribute, None)
        if found is None:
            raise Unfit(f"{place} has no {attribute!r}")
        return found, _takes(found, "render_mode")
    if colon:
        import importlib

        module = importlib.import_module(place)
        if callable(found := getattr(module, attribute, None)):
            return found, _takes(found, "render_mode")
    import gymnasium  # a name that is registered, perhaps by a module before the colon

    def make(**kwargs: Any) -> Any:
        return gymnasium.make(target, disable_env_checker=True, **kwargs)

    return make, True


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


class Server:
    """The episodes of this process, and what can be asked of them."""

    def __init__(self) -> None:
        self._episodes: dict[int, Episode] = {}
        self._wanted: dict[str, Wanted] = {}

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What a request gives. Raises whatever the environment does."""
        does: Callable[[Mapping[str, Any]], dict[str, Any]] = getattr(self, f"_{asked['op']}")
        return does(asked)

    def _made(self, asked: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Episode:
        key = json.dumps(asked["wanted"], sort_keys=True)
        if key not in self._wanted:
            self._wanted[key] = Wanted(asked["wanted"])
        return Episode(self._wanted[key], kwargs)

    def _describe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        episode = self._made(asked, asked["kwargs"])
        spec = getattr(episode.env, "spec", None)
        try:
            return {
                "schema": episode.schema,
                "about": episode.about(),
                "space": str(episode.space),
                "max_steps": getattr(spec, "max_episode_steps", None),
                "success_at": getattr(spec, "reward_threshold", None),
            }
        finally:
            episode.close()

    def _firsts(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The first observations of some starts. One environment serves all with the same arguments."""
        envs: dict[str, Episode] = {}
        texts = []
        try:
            for start in asked["starts"]:
                key = json.dumps(start["kwargs"], sort_keys=True)
                if key not in envs:
                    if len(envs) > 16:
                        envs.pop(next(iter(envs))).close()
                    envs[key] = self._made(asked, start["kwargs"])
                texts.append(envs[key].reset(start["seed"]))
        finally:
            for env in envs.values():
                env.close()
        return {"texts": texts}

    def _returns(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What random play comes to: the sums of episodes of at most `steps`, until those come to `most` together."""
        returns, left = list[float](), int(asked["most"])
        for start in asked["starts"]:
            episode = self._made(asked, start["kwargs"])
            try:
                rewards = episode.played(start["seed"], min(int(asked["steps"]), left))
            finally:
                episode.close()
            left -= len(rewards)
            if rewards:
                returns.append(sum(rewards))
            if not rewards or left <= 0:
                break
        return {"returns": returns}

    def _open(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        episode = self._made(asked, asked["kwargs"])
        text = episode.reset(asked["seed"])
        self._episodes[asked["id"]] = episode
        return {"text": text, "schema": episode.schema}

    def _step(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return self._episodes[asked["id"]].step(asked["action"])

    def _close(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        episode = self._episodes.pop(asked["id"], None)
        if episode is not None:
            episode.close()
        return {}


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an environment prints is no answer
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is our starter's business
    warnings.simplefilter("ignore")
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    server = Server()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"ok": True} | server.answer(asked)
        except Unfit as error:
            answer = {"ok": False, "unfit": True, "error": str(error)}
        except Exception as error:
            answer = {"ok": False, "unfit": False, "error": f"{type(error).__name__}: {error}{_where(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _watch(parent: int) -> None:
    """End with whoever started this process, also while an environment never comes back."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)
