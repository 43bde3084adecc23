"""One episode's browser: what it shows as text, and what can be done in it. What goes wrong with a page is said.

The page is told as its accessibility tree, as Playwright writes it: roles, names, states, and a reference for each
element. A call of the agent's that cannot be carried out raises `Refused`, whose text it reads; only where the browser
itself fails, or a site of the environment's does, is it a `ToolError`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urljoin, urlsplit

from askesis.tools.browser.network import Site
from askesis.tools.browser.pool import VIEWPORT, BrowserPool, Profile
from askesis.types import Artifact, AskesisError, ConfigError, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import ConsoleMessage, Dialog, Locator, Page

T = TypeVar("T")
Screenshots = Literal["every", "end", "never"]
MOST_PAGES = 4  # windows of one episode
MOST_ADDRESS = 2_000
_NOTICES = 4  # of what happened in one call
_QUIET_S = 0.04  # without a request: what a call brought about has come to its end
_ANSWERS_S = 10.0  # a browser that lives says so by then
_NOT_READY = ("not enabled", "disabled", "not visible", "not stable", "intercepts pointer", "not find some options")
_REF = re.compile(r" \[ref=((?:f\d+)?e\d+)\]")
_IDLE = re.compile(r" \[(?:cursor=\w+|box=[^\]]*)\]")
_KEPT = re.compile(
    r"^\s*- (?:'|\")?(?:link|button|textbox|searchbox|combobox|listbox|checkbox|radio|switch|slider|spinbutton|tab|"
    r"menuitem\w*|treeitem|option|gridcell|dialog|alertdialog|iframe)\b"
)


class Refused(AskesisError):
    """What an agent asked for cannot be done as it stands; the message is for the agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a call showed. picture: of the window afterwards, for people."""

    text: str
    picture: Artifact | None = None


class LiveBrowser:
    """Opened when it is first used. sites: ASGI applications by host; nothing else can be reached.

    output: characters of a call's text. timeout_s: how long a page may take over one thing. hangs: whether its pages
    can take longer by their own doing; where they cannot, that is the machinery's fault. screenshots: which calls leave
    a picture in the trace. Raises `ConfigError` for senseless values.
    """

    def __init__(
        self,
        pool: BrowserPool,
        sites: Mapping[str, Site],
        *,
        output: int = 4_000,
        timeout_s: float = 10.0,
        viewport: tuple[int, int] = VIEWPORT,
        hangs: bool = True,
        screenshots: Screenshots = "end",
    ) -> None:
        if output < 200 or timeout_s <= 0 or screenshots not in ("every", "end", "never"):
            raise ConfigError(
                f"browser: output={output}, timeout_s={timeout_s}, screenshots={screenshots!r}: expected 200 or more, "
                "more than 0, and one of every, end, never"
            )
        self._pool, self._sites, self._viewport = pool, dict(sites), viewport
        self._output, self._timeout_s, self._hangs, self.screenshots = output, timeout_s, hangs, screenshots
        self._profile: Profile | None = None
        self._pages: list[Page] = []
        self._turn = asyncio.Lock()
        self._notices: list[str] = []
        self._dialog: Dialog | None = None
        self._asked = asyncio.Event()
        self._pending: asyncio.Task[Any] | None = None  # what a dialog holds up
        self._base = ""  # the last page of a site's, which relative addresses start from
        self._crashed = self._stuck = False  # the newest window, which is of no use any more
        self._closed = False

    @property
    def used(self) -> bool:
        """Whether it has been opened."""
        return self._profile is not None

    # -- what an agent does --------------------------------------------------------------------------------------------

    async def open(self, address: str) -> Shown:
        """Go to an address. Raises `Refused` for one that nobody serves."""
        async with self._call() as page:
            wanted = self._address(address)
            if self._stuck:  # its process has no ear for another address
                page = await self._fresh()
            await self._do(lambda: self._gone_to(page, wanted))
            return await self._shown(page)

    async def _gone_to(self, page: Page, address: str) -> None:
        from playwright.async_api import Error

        try:
            await page.goto(address, timeout=self._ms, wait_until="load")
        except Error as error:
            if "net::ERR_" in str(error):  # Chromium's own page about it comes later, and would end what comes next
                with suppress(Error):
                    await page.wait_for_url("chrome-error://**", timeout=self._ms)
            if "interrupted by another navigation" not in str(error):
                raise

    async def read(self, part: int = 1) -> Shown:
        """The page as it is. part: of a text that does not fit into one answer."""
        async with self._call() as page:
            return await self._shown(page, part=part)

    async def click(self, ref: str) -> Shown:
        """Click an element."""
        async with self._call() as page:
            element = await self._element(page, ref)
            await self._do(lambda: element.click(timeout=self._ms))
            return await self._shown(page)

    async def type(self, ref: str, text: str, *, submit: bool = False) -> Shown:
        """Put `text` into a field in place of what is in it. submit: press Enter then."""
        async with self._call() as page:
            field = await self._element(page, ref)
            await self._do(lambda: field.fill(text, timeout=self._ms))
            if submit:
                await self._do(lambda: field.press("Enter", timeout=self._ms))
                return await self._shown(page)
            return await self._said("typed", page)

    async def select(self, ref: str, option: str) -> Shown:
        """Choose an option of a list by its text."""
        async with self._call() as page:
            element = await self._element(page, ref)
            chosen = await self._do(lambda: element.select_option(label=option, timeout=min(self._ms, 1_000)))
            return await self._said("chosen" if chosen else "nothing was chosen", page)

    async def press(self, key: str) -> Shown:
        """Press a key where the focus is."""
        async with self._call() as page:
            await self._do(lambda: page.keyboard.press(key))
            return await self._shown(page)

    async def back(self) -> Shown:
        """Go back in the history; out of a window that was opened last, to the one before."""
        async with self._call() as page:
            if await self._do(lambda: page.go_back(timeout=self._ms, wait_until="load")) is None:
                if len(self._pages) < 2:
                    raise Refused("there is no page before this one")
                await self._pages.pop().close()
            return await self._shown(self._pages[-1])

    async def answer(self, accept: bool, text: str = "") -> Shown:
        """Answer a dialog that is open. Raises `Refused` for none."""
        async with self._call(dialog=True) as page:
            dialog, self._dialog = self._dialog, None
            if dialog is None:
                raise Refused("no dialog is open")
            self._asked.clear()
            pending, self._pending = self._pending, None

            async def answered() -> None:
                await (
                    dialog.accept(text)
                    if accept and dialog.type == "prompt"
                    else dialog.accept()
                    if accept
                    else dialog.dismiss()
                )
                if pending is not None:
                    await pending

            await self._do(answered)
            return await self._shown(page)

    async def picture(self, name: str = "screenshot") -> Artifact | None:
        """The window as it looks; None where there is none to look at."""
        if self._profile is None or self._closed or self._dialog is not None or not self._pages:
            return None
        from playwright.async_api import Error

        try:
            data = await self._pages[-1].screenshot(type="jpeg", quality=70, timeout=self._ms, animations="disabled")
        except Error:
            return None
        return Artifact(name=name, media_type="image/jpeg", data=data)

    async def close(self) -> None:
        """Throw the profile away. Idempotent."""
        self._closed = True
        profile, self._profile = self._profile, None
        pending, self._pending = self._pending, None
        if profile is not None:
            await self._pool.shut(profile)
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)

    # -- how it is done ------------------------------------------------------------------------------------------------

    @property
    def _ms(self) -> float:
        return 1000 * self._timeout_s

    @asynccontextmanager
    async def _call(self, *, dialog: bool = False) -> AsyncIterator[Page]:
        """One call at a time, on the newest window. Raises `Refused` while a dialog wants an answer."""
        async with self._turn:
            page = await self._page()
            if self._dialog is not None and not dialog:
                raise Refused(f"a dialog is open: {self._dialog.message[:300]!r}; answer it first")
            try:
                yield page
            except Refused as refused:
                said = self._noticed()
                raise Refused(f"{refused}\n{said}" if said else str(refused)) from refused

    async def _page(self) -> Page:
        """The window that was opened last; a new one where there is none any more."""
        if self._closed:
            raise ToolError("the browser was closed: the episode is over")
        if self._profile is None:
            self._profile = await self._pool.open(self._sites, viewport=self._viewport)
            self._profile.context.on("page", self._opened)
        self._pages = [page for page in self._pages if not page.is_closed()]
        return await self._fresh() if self._crashed or not self._pages else self._pages[-1]

    async def _fresh(self) -> Page:
        """A new window, in place of one that can no more be used."""
        from playwright.async_api import Error

        assert self._profile is not None
        useless = self._pages.pop() if self._pages and (self._crashed or self._stuck) else None
        self._crashed = self._stuck = False
        if useless is not None:
            with suppress(Error, TimeoutError):
                await asyncio.wait_for(useless.close(), self._timeout_s)
        await self._machinery(self._profile.context.new_page())
        return self._pages[-1]

    def _opened(self, page: Page) -> None:
        if len([one for one in self._pages if not one.is_closed()]) >= MOST_PAGES:
            self._notice(f"a window was not opened: there are {MOST_PAGES}")
            task = asyncio.ensure_future(page.close())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return
        self._pages.append(page)
        page.on("dialog", self._dialog_opened)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._notice(f"[error in the page: {str(error)[:200]}]"))
        page.on("crash", self._page_crashed)

    def _page_crashed(self, page: Page) -> None:
        self._crashed = True

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._notice(f"[console error: {message.text[:200]}]")

    def _dialog_opened(self, dialog: Dialog) -> None:
        if dialog.type in ("alert", "beforeunload"):
            if dialog.type == "alert":
                self._notice(f"[the page said: {dialog.message[:300]}]")
            task = asyncio.ensure_future(dialog.accept())
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        else:
            self._dialog = dialog
            self._asked.set()

    def _notice(self, text: str) -> None:
        self._notices.append(text)
        del self._notices[50:]

    def _noticed(self) -> str:
        notices, self._notices = self._notices, []
        more = [f"[and {len(notices) - _NOTICES} more]"] if len(notices) > _NOTICES else []
        return "\n".join([*notices[:_NOTICES], *more])

    def _address(self, address: str) -> str:
        """An address in full. Raises `Refused` for what no site of the episode serves."""
        given, hosts = address.strip(), ", ".join(f"http://{host}/" for host in self._sites)
        if len(given) > MOST_ADDRESS or re.search(r"[\s\\\x00-\x1f\x7f]", given):
            raise Refused(f"not opened: expected an address without blanks, of at most {MOST_ADDRESS} characters")
        if "://" not in given and not given.startswith("/") and given.partition("/")[0].lower() in self._sites:
            given = f"http://{given}"
        try:
            full = urljoin(self._base or f"http://{next(iter(self._sites), '')}/", given)
        except ValueError:
            full = ""
        if not self._served(full):
            raise Refused(f"not opened: {given[:200]!r} is not served here; only pages below {hosts} are")
        return full

    def _served(self, address: str) -> bool:
        try:
            parts = urlsplit(address)
        except ValueError:
            return False
        return parts.scheme == "http" and parts.netloc.lower().removesuffix(":80") in self._sites

    async def _element(self, page: Page, ref: str) -> Locator:
        """The element that was shown under a reference. Raises `Refused` where it is gone."""
        from playwright.async_api import Error

        element = page.locator(f"aria-ref={ref}")
        try:
            there = await asyncio.wait_for(element.count(), self._timeout_s)
        except TimeoutError:
            raise self._busy() from None
        except Error as error:
            raise await self._wrong(error) from error
        if not there:
            raise Refused(f"there is no element {ref} on the page as it is now; read shows it")
        return element

    async def _do(self, action: Callable[[], Awaitable[T]]) -> T | None:
        """Carry out what an agent asked for, until it and what it brought about are done, or a dialog is open."""
        from playwright.async_api import Error

        task = asyncio.ensure_future(action())
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():  # a dialog holds it up
                self._pending = task
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                return None
            result = task.result()
        except Error as error:
            raise await self._wrong(error) from error
        finally:
            asked.cancel()
            if task is not self._pending and not task.done():
                task.cancel()
        await self._settle()
        return result

    async def _settle(self) -> None:
        """Wait until pages that are on their way are there and no request is under way, but not for ever."""
        from playwright.async_api import Error

        profile, clock = self._profile, asyncio.get_running_loop().time
        assert profile is not None
        deadline = clock() + self._timeout_s
        with suppress(Error):
            await self._pages[-1].wait_for_load_state("load", timeout=self._ms)
        while clock() < deadline and self._dialog is None:
            if not profile.port.busy and clock() - profile.port.last >= _QUIET_S:
                break
            await asyncio.sleep(0.005)
        self._demand_sites()

    def _demand_sites(self) -> None:
        profile = self._profile
        if profile is not None and profile.port.failure is not None:
            failure = profile.port.failure
            raise ToolError(f"a site of the environment failed: {type(failure).__name__}: {failure}") from failure

    def _busy(self) -> AskesisError:
        if not self._hangs:
            return ToolError(f"a page took longer than {self._timeout_s:g} s")
        self._stuck = True
        return Refused(f"the page is busy: no answer within {self._timeout_s:g} s; another address can be opened")

    async def _wrong(self, error: Exception, *, reading: bool = False) -> AskesisError:
        """What to raise for an error of Playwright's: the agent's affair, unless the browser is gone or dumb."""
        profile = self._profile
        self._demand_sites()
        if profile is None or not profile.alive:
            return ToolError("the browser died")
        said = str(error)
        if ("Timeout" in said or "closed" in said) and not await self._answers():
            return ToolError("the browser does not answer")
        if self._crashed:
            return Refused("the page crashed; open an address again")
        if "Timeout" in said and (reading or not (self._hangs or any(one in said for one in _NOT_READY))):
            return self._busy()
        return Refused(explained(said, self._timeout_s))

    async def _answers(self) -> bool:
        """Whether the browser itself, not only a page, is at a loss."""
        assert self._profile is not None
        try:
            await asyncio.wait_for(self._profile.context.cookies(), _ANSWERS_S)
        except Exception:
            return False
        return True

    async def _machinery(self, work: Awaitable[T]) -> T:
        from playwright.async_api import Error

        try:
            return await asyncio.wait_for(work, self._timeout_s + _ANSWERS_S)
        except (Error, TimeoutError) as error:
            if self._profile is None or not self._profile.alive:
                raise ToolError("the browser died") from error
            said = str(error).partition("\n")[0] or "no answer"
            raise ToolError(f"the browser opened no window: {said}") from error

    # -- what is shown -------------------------------------------------------------------------------------------------

    async def _said(self, text: str, page: Page) -> Shown:
        if self._dialog is not None:
            return await self._shown(page)
        return Shown(text="\n".join(filter(None, (text, self._noticed()))), picture=await self._kept())

    async def _kept(self) -> Artifact | None:
        return await self.picture() if self.screenshots == "every" else None

    async def _shown(self, page: Page, *, part: int = 1) -> Shown:
        """The newest window's title, address and tree, and what happened meanwhile."""
        from playwright.async_api import Error

        if self._dialog is not None:
            kind, said = self._dialog.type, self._dialog.message[:300]
            text = f"[the page asks ({kind}): {said!r}; answer it]"
            return Shown(text="\n".join(filter(None, (self._noticed(), text))))
        page = self._pages[-1] if self._pages else page
        try:
            title = await asyncio.wait_for(page.title(), self._timeout_s)
            tree = await page.aria_snapshot(mode="ai", timeout=self._ms)
        except TimeoutError:
            raise self._busy() from None
        except Error as error:
            raise await self._wrong(error, reading=True) from error
        if self._served(page.url):
            self._base = page.url
        head = f"{title}  {page.url}" if title else page.url
        body = paged(compact(tree) or "(an empty page)", self._output, part)
        return Shown(text="\n".join(filter(None, (head[:400], body, self._noticed()))), picture=await self._kept())


def compact(tree: str) -> str:
    """Playwright's tree with references only where something can be done, as `[e7]`, and without what nobody needs:
    boxes that mean nothing, where links lead."""
    lines: list[str] = []
    dropped: list[int] = []  # how far boxes that were left out are set in
    for line in tree.splitlines():
        deep = _depth(line)
        while dropped and dropped[-1] >= deep:
            dropped.pop()
        useful = _KEPT.match(line) or "[cursor=pointer]" in line
        line = _REF.sub(r" [\1]" if useful else "", _IDLE.sub("", line))
        bare = line.strip()
        if bare in ("- generic:", "- generic", "- generic [active]:", "- generic [active]"):
            dropped.append(deep)
        elif not bare.startswith("- /"):
            lines.append(line[2 * len(dropped) :])
    for at, line in enumerate(lines):  # what is left without children
        under = lines[at + 1] if at + 1 < len(lines) else ""
        if line.endswith(("]:", '":')) and _depth(under) <= _depth(line):
            lines[at] = line[:-1]
    return "\n".join(lines)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def paged(text: str, most: int, part: int) -> str:
    """One part of a text that is cut at line ends, with a line that says what there is beside it."""
    if len(text) <= most and part == 1:
        return text
    starts, at = [0], 0
    while at + most < len(text):
        line = text.rfind("\n", at + 1, at + most)
        at = line + 1 if line > at else at + most
        starts.append(at)
    if not 1 <= part <= len(starts):
        raise Refused(f"there is no part {part}: the page has {len(starts)}")
    shown = text[starts[part - 1] : (starts[part] if part < len(starts) else len(text))].rstrip("\n")
    return f"{shown}\n[part {part} of {len(starts)} of this page; read with another `part` shows the others]"


def explained(said: str, timeout_s: float) -> str:
    """What an agent should know of an error of Playwright's."""
    first = re.sub(r"^(?:\w+\.)?\w+: ", "", said.strip().partition("\n")[0])
    if "Element is not an <input>" in said:
        return "that element is no field to type into"
    if "Element is not a <select>" in said:
        return "that element is no list to choose from; click it"
    if "did not find some options" in said:
        return "the list has no such option"
    if "Invalid frame" in first or ("ref" in first and "not found" in first):
        return "there is no such element on the page as it is now; read shows it"
    if "intercepts pointer events" in said:
        return "something lies over that element; read shows the page as it is now"
    if "element is not enabled" in said or "element is disabled" in said:
        return "that element is disabled"
    if "not visible" in said:
        return "that element is not visible"
    if "net::ERR_" in said:
        found = re.search(r"net::ERR_\w+", said)
        return f"the page did not open: {found[0] if found else first}"
    if "Timeout" in said:
        return f"that took longer than {timeout_s:g} s and was given up; read shows the page as it is now"
    return f"not done: {first[:200]}"
