"""The browser at its door, in real Chromium: what is read, what can be done, and that nothing else can be reached."""

import asyncio
import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from askesis.tools.browser import BrowserPool, LiveBrowser, Refused, browser_tools
from askesis.tools.browser.live import compact, paged
from askesis.types import ConfigError, MissingExtra, ToolError

in_loop = pytest.mark.asyncio(loop_scope="module")

PAGES = {
    "/": "<title>Shop</title><h1>Welcome</h1><div><div><a href='/form'>Order</a></div></div>"
    "<table><tr><th>Name</th></tr><tr><td>Mug</td></tr></table>",
    "/form": """<title>Order</title><form action="/send" method="post"><label>Name <input name="name"></label>
        <label>Size <select name="size"><option>Small<option>Large</select></label>
        <label><input type="checkbox" name="gift">Gift</label><button>Send</button></form>""",
    "/events": """<title>none</title><button onclick="document.title = confirm('Sure?')">Ask</button>
        <button onclick="document.title = prompt('Who?')">Who</button><button onclick="alert('Hello')">Tell</button>
        <button onclick="nowhere()">Fail</button><button onclick="this.remove()">Vanish</button>
        <div style="position:relative"><button>Under</button>
        <i style="position:absolute;left:0;top:0;width:200px;height:40px"></i></div><button disabled>Off</button>""",
    "/busy": "<button onclick='for (;;);'>Hang</button>",
    "/long": "".join(f"<p>line {n} of a long page</p>" for n in range(400)),
    "/broken": None,
    "/tries": """<script>
        const tries = TRIES, out = {};
        const wait = (work) => Promise.race([work, new Promise((_, no) => setTimeout(no, 3000))]);
        const ways = {
          fetch: (u) => fetch(u, {mode: "no-cors"}).then((r) => r.type === "opaque" ? Promise.reject() : r.text()),
          image: (u) => new Promise((yes, no) => { const i = new Image(); i.onload = yes; i.onerror = no; i.src = u; }),
          script: (u) => new Promise((yes, no) => { const s = document.createElement("script"); s.onload = yes;
            s.onerror = no; s.src = u; document.head.append(s); }),
          socket: (u) => new Promise((yes, no) => { const s = new WebSocket(u); s.onopen = yes; s.onerror = no; }),
          window: (u) => new Promise((yes, no) => { const w = open(u); try { w.document.body.innerText ? yes() : no(); }
            catch (e) { no(); } }),
        };
        (async () => {
          for (const [way, address] of tries)
            await wait(ways[way](address)).then(() => out[way + " " + address] = true, () => {});
          await fetch("/report", {method: "POST", body: JSON.stringify(out)});
          document.title = "done";
        })();</script>""",
}


class Shop:
    """A site with a memory."""

    def __init__(self):
        self.sent, self.report, self.seen, self.tries = [], None, [], []

    async def __call__(self, scope, receive, send):
        request = Request(scope, receive)
        path = request.url.path
        self.seen.append(str(request.url))
        if path == "/send":
            self.sent.append((await request.body()).decode())
            answer = RedirectResponse("/thanks", 303)
        elif path == "/report":
            self.report = json.loads(await request.body())
            answer = JSONResponse({})
        elif path == "/to":
            answer = RedirectResponse(request.query_params["u"])
        elif path == "/cookie":
            answer = HTMLResponse(f"<p>cookie: {request.cookies.get('who', 'none')}</p>")
            answer.set_cookie("who", "me")
        else:
            page = PAGES.get(path, f"<title>Page</title><p>path {path}</p>")
            answer = HTMLResponse(page.replace("TRIES", json.dumps(self.tries)))
        await answer(scope, receive, send)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool():
    pool = BrowserPool(processes=2, profiles=3)
    yield pool
    await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def shop(pool):
    """A browser and its site."""
    site = Shop()
    browser = LiveBrowser(pool, {"shop.test": site})
    browser.site = site
    yield browser
    await browser.close()


def ref(text, line):
    """The reference in the first line of a page that says so."""
    found = re.search(rf"{re.escape(line)}.*?\[((?:f\d+)?e\d+)\]", text)
    assert found, (line, text)
    return found[1]


@in_loop
async def test_a_page_is_read_and_a_form_is_sent(shop):
    front = (await shop.open("http://shop.test/")).text
    assert front.splitlines()[0] == "Shop  http://shop.test/"
    assert '- heading "Welcome" [level=1]' in front and '- cell "Mug"' in front and "[e" not in front.split("link")[0]
    form = (await shop.click(ref(front, 'link "Order"'))).text
    assert 'combobox "Size"' in form and 'option "Small" [selected]' in form
    assert (await shop.type(ref(form, 'textbox "Name"'), "Ada & Co")).text == "typed"
    await shop.select(ref(form, 'combobox "Size"'), "Large")
    checked = (await shop.click(ref(form, 'checkbox "Gift"'))).text
    assert '"Gift" [checked]' in checked and ": Ada & Co" in checked and 'option "Large" [selected]' in checked
    thanks = (await shop.type(ref(checked, 'textbox "Name"'), "Eva", submit=True)).text
    assert "http://shop.test/thanks" in thanks and shop.site.sent == ["name=Eva&size=Large&gift=on"]
    assert 'textbox "Name"' in (await shop.back()).text


@in_loop
async def test_what_cannot_be_done_is_said(shop):
    page = (await shop.open("/events")).text
    with pytest.raises(Refused, match="no element e99"):
        await shop.click("e99")
    gone = ref(page, 'button "Vanish"')
    await shop.click(gone)
    with pytest.raises(Refused, match="no element"):
        await shop.click(gone)
    with pytest.raises(Refused, match="no field"):
        await shop.type(ref(page, 'button "Tell"'), "x")
    with pytest.raises(Refused, match="no list"):
        await shop.select(ref(page, 'button "Tell"'), "x")
    with pytest.raises(Refused, match="no dialog"):
        await shop.answer(True)
    form = (await shop.open("/form")).text
    with pytest.raises(Refused, match="no such option"):
        await shop.select(ref(form, 'combobox "Size"'), "Huge")
    assert shop.site.sent == []


@in_loop
async def test_dialogs_and_errors_are_observed(shop):
    page = (await shop.open("/events")).text
    assert "[the page said: Hello]" in (await shop.click(ref(page, 'button "Tell"'))).text
    assert "nowhere is not defined" in (await shop.click(ref(page, 'button "Fail"'))).text
    assert "'Sure?'" in (await shop.click(ref(page, 'button "Ask"'))).text
    with pytest.raises(Refused, match="a dialog is open"):
        await shop.read()
    assert (await shop.answer(True)).text.startswith("true  ")
    await shop.click(ref(page, 'button "Who"'))
    assert (await shop.answer(True, "Ada")).text.startswith("Ada  ")


@in_loop
async def test_a_long_page_comes_in_parts(shop):
    first = (await shop.open("/long")).text
    parts = int(re.search(r"\[part 1 of (\d+)", first)[1])
    texts = [first, *[(await shop.read(part)).text for part in range(2, parts + 1)]]
    lines = [line for text in texts for line in re.findall(r"line \d+ of", text)]
    assert lines == [f"line {n} of" for n in range(400)] and all(len(text) < 4_500 for text in texts)
    with pytest.raises(Refused, match=f"has {parts}"):
        await shop.read(parts + 1)


def test_what_is_left_out_of_a_tree():
    tree = """- generic [ref=e1]:
  - generic [active] [ref=e2]:
    - link "Go" [ref=e3] [cursor=pointer]:
      - /url: /b
    - text: Plain
  - img "Cat" [ref=e4]"""
    assert compact(tree) == '- link "Go" [e3]\n- text: Plain\n- img "Cat"'
    assert paged("a\nb", 10, 1) == "a\nb"


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "chrome://version", "view-source:http://shop.test/", "data:text/html,x", "//x.test/"),
        *("javascript:alert(1)", "https://shop.test/", "http://other.test/", "http://shop.test.other.test/"),
        *("http://shop.test:81/", "http://127.0.0.1:7001/", "http://localhost/", "http://[::1]/", "http://[bad"),
        *("http://shop.test@x.test/", "http://x.test\\@shop.test/", "ws://shop.test/", "http://shop.test\n.x.test/"),
        *("about:blank", ""),
    ],
)
@in_loop
async def test_an_address_that_nobody_serves_is_not_opened(pool, address):
    browser = LiveBrowser(pool, {"shop.test": Shop()})
    if address:
        with pytest.raises(Refused, match="not opened"):
            browser._address(address)
    else:
        assert browser._address("x/y?z=1") == "http://shop.test/x/y?z=1"


@in_loop
async def test_a_page_reaches_nothing_but_its_own_site(pool, shop):
    """Scripts that try, in real Chromium; another episode's site is open in the same process meanwhile."""
    other = LiveBrowser(pool, {"other.test": Shop(), "10.0.0.1": Shop()})
    outside = asyncio.Event()

    async def heard(reader, writer):
        outside.set()
        writer.close()

    server = await asyncio.start_server(heard, "127.0.0.1", 0)
    free = server.sockets[0].getsockname()[1]
    await other.open("http://other.test/")
    before = list(next(iter(other._sites.values())).seen)
    places = ["other.test", "localhost", f"127.0.0.1:{free}", f"[::1]:{free}", "shop.test:81", "169.254.169.254"]
    places += ["127.0.0.1.nip.io", "shop.test.", *(f"127.0.0.1:{7000 + n}" for n in range(4))]
    shop.site.tries = [[way, f"http://{place}/"] for way in ("fetch", "script", "image") for place in places]
    shop.site.tries += [["socket", f"ws://{place}/"] for place in ("shop.test", "other.test", places[2])]
    shop.site.tries += [[way, u] for way in ("fetch", "window") for u in ("file:///etc/passwd", "chrome://version")]
    shop.site.tries += [["fetch", "https://shop.test/"], ["fetch", "/to?u=http://other.test/"], ["fetch", "/"]]
    await shop.open("/tries")
    for _ in range(200):
        if shop.site.report is not None:
            break
        await asyncio.sleep(0.1)
    assert shop.site.report == {"fetch /": True} and not outside.is_set()
    assert list(next(iter(other._sites.values())).seen) == before
    refused = (await shop.open("/to?u=http://other.test/")).text
    assert "not served here" in refused
    assert "not served here" in (await shop.open("/to?u=http://127.0.0.1:7002/")).text
    with pytest.raises(Refused, match="did not open"):
        await shop.open("/to?u=file:///etc/passwd")
    assert "path /fine" in (await shop.open("/to?u=/fine")).text
    server.close()
    await other.close()


@in_loop
async def test_episodes_share_nothing(pool):
    for _ in range(2):
        site = Shop()
        browser = LiveBrowser(pool, {"shop.test": site})
        assert "cookie: none" in (await browser.open("/cookie")).text
        assert "cookie: me" in (await browser.open("/cookie")).text
        await browser.close()
        assert all(address.startswith("http://shop.test/") for address in site.seen)


@in_loop
async def test_a_page_that_hangs_is_the_agents_affair_unless_none_can(pool):
    theirs, ours = (LiveBrowser(pool, {"shop.test": Shop()}, timeout_s=20.0, hangs=hangs) for hangs in (True, False))
    for browser, said in ((theirs, Refused), (ours, ToolError)):
        page = (await browser.open("/busy")).text
        browser._timeout_s = 2.0
        with pytest.raises(said, match="longer than 2 s"):
            await browser.click(ref(page, 'button "Hang"'))
    with pytest.raises(Refused, match="busy"):
        await theirs.read()
    theirs._timeout_s = 20.0
    assert "Welcome" in (await theirs.open("/")).text
    await asyncio.gather(theirs.close(), ours.close())


@in_loop
async def test_a_site_that_fails_is_the_machinerys(shop):
    with pytest.raises(ToolError, match="site of the environment failed: AttributeError"):
        await shop.open("/broken")


@in_loop
async def test_chromium_dies_and_others_go_on():
    pool = BrowserPool(processes=2, profiles=1)
    dead, lives = (LiveBrowser(pool, {"shop.test": Shop()}) for _ in range(2))
    await dead.open("/")
    await lives.open("/")
    folder = dead._profile.process.chromium._folder.name.encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    with pytest.raises(ToolError, match="died"):
        await dead.open("/")
    assert "Welcome" in (await lives.open("/")).text
    await dead.close()
    after = LiveBrowser(pool, {"shop.test": Shop()})
    assert "Welcome" in (await after.open("/")).text
    await asyncio.gather(after.close(), lives.close())
    await pool.close()


@in_loop
async def test_the_tools_and_their_pictures(pool):
    browser = LiveBrowser(pool, {"shop.test": Shop()}, screenshots="every")
    tools = {tool.spec.name: tool for tool in browser_tools(browser)}
    assert set(tools) == {"open", "read", "click", "type", "select", "press", "back", "dialog"}
    opened = await tools["open"]({"address": "shop.test"}, None)
    assert not opened.error and opened.artifacts[0].media_type == "image/jpeg"
    assert opened.artifacts[0].data.startswith(b"\xff\xd8")
    refused = await tools["click"]({"ref": "e77"}, None)
    assert refused.error and "no element" in refused.text and not refused.artifacts
    await browser.close()


def test_bad_input_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="processes=0"):
        BrowserPool(processes=0)
    with pytest.raises(ConfigError, match="screenshots"):
        LiveBrowser(None, {}, screenshots="often")
    with pytest.raises(MissingExtra, match="no-such-browser"):
        BrowserPool(program="no-such-browser")
