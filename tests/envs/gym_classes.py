"""Environments of the reset/step kind that no library registers, and functions that options name."""

import os
import time
from collections import deque
from pathlib import Path

import numpy as np
from gymnasium import spaces


class Guess:
    """Guess a number. As GEM has them: texts in, texts out; and it fails in every way that it is asked to."""

    def __init__(self, most=9):
        self.most = most

    def reset(self, seed=None):
        self.number, self.left = seed % self.most + 1, 5
        print("this is no answer of the worker's")
        return f"A number from 1 to {self.most}.", {}

    def step(self, action):
        if action == "hang":
            time.sleep(1e4)
        if action == "die":
            os._exit(7)
        if action == "raise":
            raise RuntimeError("the dice are lost")
        if action == "nan":
            return "?", float("nan"), False, False, {}
        self.left -= 1
        right = action.strip() == str(self.number)
        said = "right" if right else "too small" if action < str(self.number) else "too large"
        return said, float(right), right, not right and not self.left, {"won": right}


class Flaky(Guess):
    """Fails once, whatever is done, and never again."""

    def __init__(self, flag):
        super().__init__()
        self.flag = Path(flag)

    def step(self, action):
        if not self.flag.exists():
            self.flag.touch()
            raise OSError("no memory")
        return super().step(action)


class Broken(Guess):
    """Fails whatever is done."""

    def step(self, action):
        raise ImportError("no dice here")


class Ledge:
    """Each step costs, and who steps off makes it fail."""

    def __init__(self):
        self.action_space = spaces.Discrete(3)

    def reset(self, seed=None):
        self.at = 0
        return "on a ledge", {}

    def step(self, action):
        self.at += 1
        if action == 2 and self.at > 1:
            raise IndexError("nothing there")
        return "on a ledge", -1.0, False, self.at == 9, {}


class Old:
    """As environments were before: a seed is set apart, a step gives four values; and arguments make others of it."""

    def __init__(self, size=3):
        self.size = size

    def seed(self, seed):
        self.random = np.random.default_rng(seed)

    def reset(self):
        self.at = int(self.random.integers(self.size))
        return np.zeros((20, 20)) + self.at

    def step(self, action):
        self.at += int(action)
        return {"at": self.at}, 1, self.at > self.size, {}


class Drifting(Guess):
    """Does not follow its seed."""

    def reset(self, seed=None):
        return f"{time.time_ns()}", {}


def sizes(rng):
    return {"size": rng.randint(1, 40)}


def maps(rng):
    """A map of FrozenLake with a way through it."""
    while True:
        rows = ["".join(rng.choice("FFFH") for _ in range(4)) for _ in range(4)]
        rows[0], rows[-1] = "S" + rows[0][1:], rows[-1][:-1] + "G"
        if way(rows) is not None:
            return {"desc": rows, "is_slippery": False}


def way(rows):
    """The shortest way over the ice, as FrozenLake's actions; None where there is none."""
    moves, seen, queue = {0: (0, -1), 1: (1, 0), 2: (0, 1), 3: (-1, 0)}, {(0, 0)}, deque([((0, 0), [])])
    while queue:
        (row, column), path = queue.popleft()
        if rows[row][column] == "G":
            return path
        for action, (down, right) in moves.items():
            at = row + down, column + right
            if min(at) >= 0 and max(at) < len(rows) and at not in seen and rows[at[0]][at[1]] != "H":
                seen.add(at)
                queue.append((at, [*path, action]))
    return None


def crossing(task):
    return way(task.data["kwargs"]["desc"])


def crossing_by_name(task, *, seed=0):
    names = ["left", "down", "right", "up"]
    return [names[action] for action in crossing(task)]


def shown(observation, info):
    return f"cart at {observation[0]:.2f}"
