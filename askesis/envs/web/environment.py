"""`web`: an agent does things on sites, or builds a page, in a real browser.

A site runs in this process, and what decides the reward is its state, or a value that never left this process. A page
that an agent has built is a tree of files: it is kept as it was when it was submitted, and opened in a fresh profile of
a browser, which tells us what it made of it (`looking`); that is compared here with what was asked for (`judging`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from askesis.envs.web.account import Account, account
from askesis.envs.web.building import PAGE_HOST, build
from askesis.envs.web.catalogue import Catalogue, catalogue
from askesis.envs.web.contact import Contact, contact
from askesis.envs.web.drawing import Template
from askesis.envs.web.files import Files
from askesis.envs.web.judging import faults
from askesis.envs.web.looking import LONGEST_S, look
from askesis.envs.web.policies import Habits, Oracle
from askesis.envs.web.serving import Site
from askesis.envs.web.shop import Shop, shop
from askesis.envs.web.tickets import Tickets, tickets
from askesis.sandbox import LazyPool
from askesis.tools.browser import BrowserPool, LiveBrowser, Screenshots, browser_tools
from askesis.tools.files import file_tools
from askesis.types import (
    ConfigError,
    EnvError,
    Limits,
    Outcome,
    Policy,
    Reward,
    RunLimits,
    Sandbox,
    SandboxError,
    Session,
    Split,
    State,
    Task,
    Tool,
    ToolError,
    ToolResult,
    ToolSpec,
    Trace,
    VerifierError,
    nearest,
)

SITES: Mapping[str, type[Site]] = {
    "contact": Contact,
    "catalogue": Catalogue,
    "shop": Shop,
    "account": Account,
    "tickets": Tickets,
}
TEMPLATES: Mapping[str, Template] = {
    "contact": contact,
    "catalogue": catalogue,
    "shop": shop,
    "account": account,
    "tickets": tickets,
    "build": build,
}
_BUILDS = ("open", "read", "click")  # what an agent needs of the browser to look at its page
_ANSWER = ToolSpec(
    name="submit",
    description="Submit the answer.",
    parameters={
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": 200}},
        "required": ["answer"],
    },
)
_DONE = ToolSpec(name="submit", description="Say that it is done.", parameters={"type": "object", "properties": {}})
_TREE = RunLimits(wall_s=5.0, cpu_s=5.0, memory=256 * 2**20, processes=4, file_size=2**20, output=2**16)
_SUBMITTED = Outcome(by="policy", reason="submitted")


@dataclass(slots=True)
class WebState:
    """One episode: its browser, and the site that it reaches or the tree that a page is built in."""

    browser: LiveBrowser
    site: Site | None = None
    sandbox: Sandbox | None = None
    answer: str | None = None
    closed: bool = False

    async def close(self) -> None:
        """Throw the browser's profile and the tree away."""
        if not self.closed:
            self.closed = True
            try:
                await self.browser.close()
            finally:
                if self.sandbox is not None:
                    await self.sandbox.close()


@dataclass(frozen=True, slots=True)
class _Submit:
    state: WebState
    spec: ToolSpec

    async def __call__(self, args: Mapping[str, Any], session: Session) -> ToolResult:
        self.state.answer = str(args.get("answer", ""))
        browser = self.state.browser
        picture = None if browser.screenshots == "never" else await browser.picture("the page when it was submitted")
        return ToolResult(text="submitted", end=_SUBMITTED, artifacts=() if picture is None else (picture,))


class Web:
    """The environment. Options:

    templates: kinds of task in use (`TEMPLATES`), drawn evenly. levels: how difficult, drawn evenly. max_turns:
    assistant messages an episode may take. max_turn_tokens: of one message. output: characters of a call's text.
    timeout_s: how long a page may take over one thing. screenshots: pictures for people in the trace: of `every` call,
    at the `end`, `never`. processes, profiles: of Chromium, and episodes in each at once (None: as many as there are
    processors). program: Chromium's name or path. Raises `ConfigError` for senseless values, `MissingExtra` where
    Playwright or Chromium is not installed.
    """

    name = "web"
    verify_s = LONGEST_S

    def __init__(
        self,
        *,
        templates: Sequence[str] = tuple(TEMPLATES),
        levels: Sequence[int] = (1, 2, 3),
        max_turns: int = 40,
        max_turn_tokens: int = 2048,
        output: int = 4_000,
        timeout_s: float = 20.0,
        screenshots: Screenshots = "end",
        processes: int = 2,
        profiles: int | None = None,
        program: str = "",
    ) -> None:
        for template in templates:
            if template not in TEMPLATES:
                raise ConfigError(
                    f"web: unknown template {template!r}{nearest(template, TEMPLATES)} (known: {', '.join(TEMPLATES)})"
                )
        if not templates or not levels or not set(levels) <= {1, 2, 3}:
            raise ConfigError(
                f"web: templates={list(templates)} and levels={list(levels)}: expected some templates, and levels out "
                "of 1, 2, 3"
            )
        self._templates, self._levels = tuple(templates), tuple(levels)
        self._limits = Limits(
            max_turns=max_turns, max_turn_tokens=max_turn_tokens, wall_s=900.0, tool_s=4 * timeout_s + 20.0
        )
        self._browsers = BrowserPool(processes=processes, profiles=profiles, program=program)
        self._shown: dict[str, Any] = {"output": output, "timeout_s": timeout_s, "screenshots": screenshots}
        LiveBrowser(self._browsers, {}, **self._shown)  # what is wrong with them is said now
        self._sandboxes = LazyPool(size=8, limits=_TREE)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def tasks(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Task]:
        """`limit` tasks (default 1000). A task's split follows from a hash of its content: none is in both."""
        rng = random.Random(f"web/{split}/{seed}")
        found: dict[str, Task] = {}
        while len(found) < (1000 if limit is None else limit):
            task = self._task(rng, split)
            if (int(task.id, 16) % 8 == 0) == (split == "heldout"):
                found.setdefault(task.id, task)
        return list(found.values())

    def _task(self, rng: random.Random, split: Split) -> Task:
        template, level = rng.choice(self._templates), rng.choice(self._levels)
        drawn = TEMPLATES[template](rng, level)
        data = {
            "template": template,
            "level": level,
            "content": dict(drawn.content),
            "check": dict(drawn.check),
            "solution": [list(step) for step in drawn.solution],
        }
        return Task(env=self.name, prompt=drawn.prompt, data=data, limits=self._limits, split=split)

    # -- episodes ------------------------------------------------------------------------------------------------------

    async def setup(self, task: Task) -> WebState:
        """A site of the episode's own, or an empty tree; the browser opens with the first call that needs it.

        Raises `EnvError` for a task that is not of this shape.
        """
        missing = [key for key in ("content", "check", "solution") if key not in task.data]
        if missing or task.data["content"].get("site") not in (*SITES, "build"):
            raise EnvError(
                f"web: task {task.id} has no {', '.join(missing) or 'site'} in its data; was it made by `Web.tasks`?"
            )
        kind = task.data["content"]["site"]
        if kind == "build":
            sandbox = await self._sandboxes.acquire()
            pages = Files(sandbox.read)
            return WebState(LiveBrowser(self._browsers, {PAGE_HOST: pages}, **self._shown), sandbox=sandbox)
        # A copy: what an episode does to its site must not reach the task.
        site = SITES[kind](json.loads(json.dumps(task.data["content"])))
        browser = LiveBrowser(self._browsers, {site.host: site}, hangs=False, **self._shown)  # no page of ours does
        return WebState(browser, site=site)

    def tools(self, task: Task, state: State) -> Sequence[Tool]:
        """The browser's, and submit; where a page is built, the files' and some of the browser's."""
        state = _web_state(state)
        submit = _Submit(state, _ANSWER if task.data["check"]["kind"] == "answer" else _DONE)
        browser = browser_tools(state.browser)
        if state.sandbox is not None:
            files = [tool for tool in file_tools(state.sandbox) if tool.spec.name != "search"]
            return (*files, *(tool for tool in browser if tool.spec.name in _BUILDS), submit)
        return (*browser, submit)

    async def verify(self, trace: Trace, state: State) -> Sequence[Reward]:
        """`success` 1 or 0, and metrics of weight 0. Only what was submitted is judged."""
        state = _web_state(state)
        check, found = trace.task.data["check"], ["it was not submitted"]
        try:
            await state.browser.close()
            if trace.outcome.reason == _SUBMITTED.reason and state.answer is not None:
                found = await self._faults(check, state)
        finally:
            await state.close()
        return [
            Reward(name="success", value=float(not found), evidence="; ".join(found[:3])[:300]),
            Reward(name="requests", value=float(0 if state.site is None else state.site.requests), weight=0.0),
            Reward(name="level", value=float(trace.task.data["level"]), weight=0.0),
        ]

    async def _faults(self, check: Mapping[str, Any], state: WebState) -> list[str]:
        """What is not as it should be."""
        if check["kind"] == "answer":
            return [] if plain(state.answer or "") == plain(str(check["want"])) else ["another answer is wanted"]
        if state.site is not None:
            left = json.loads(json.dumps(state.site.state()))
            return [] if left == check["want"] else ["the site is not as it should be"]
        assert state.sandbox is not None
        try:
            snapshot = await state.sandbox.snapshot()
        except SandboxError as error:
            raise VerifierError(f"web: the tree could not be kept: {error}") from error
        await state.close()
        try:
            toggle = check["toggle"]
            press = check["elements"][toggle["button"]]["name"] if toggle else ""
            seen = await look(self._browsers, snapshot, press=press)
        except ToolError as error:
            raise VerifierError(f"web: the verifier's browser failed: {error}") from error
        return [seen] if isinstance(seen, str) else faults(check, seen)

    async def close(self) -> None:
        """Stop the browsers and the sandbox workers."""
        await self._browsers.close()
        await self._sandboxes.close()

    # -- scripted policies ---------------------------------------------------------------------------------------------

    def oracle(self, task: Task) -> Policy:
        """Does every task."""
        return Oracle(task)

    def demonstrator(self, task: Task, *, seed: int, quality: str = "poor") -> Policy:
        """Writes demonstrations: careless ones for the cold start (`poor`), or `good` ones for comparison."""
        habits = {"poor": Habits(), "good": Habits.good()}
        if quality not in habits:
            raise ConfigError(f"web: unknown demonstration quality {quality!r}{nearest(quality, habits)}")
        return Oracle(task, habits=habits[quality], seed=seed)


def plain(text: str) -> str:
    """An answer without what is no part of it: blanks, capitals, quotation marks around it, a full stop."""
    return " ".join(text.split()).rstrip(".").strip("\"'` ").casefold()


def _web_state(state: State) -> WebState:
    if not isinstance(state, WebState):
        raise EnvError(f"web: got a state of type {type(state).__name__}, expected the one from `setup`")
    return state
