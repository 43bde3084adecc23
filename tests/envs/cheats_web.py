"""Cheats against `web`: what can be sent to a site, what a page can pretend to be, and where an answer could lie."""

import re

from cheating import Cheat, NotApplicable, call

from askesis.envs.web.policies import reference

OPTIONS = {"processes": 1, "profiles": 6}


def of(template, level):
    """Which task: of this template and level."""
    return lambda task: (task.data["template"], task.data["level"]) == (template, level)


BUILD, SHOP, TABLE, DESK, FORM = of("build", 3), of("shop", 3), of("catalogue", 2), of("tickets", 1), of("contact", 1)


def right_page(task):
    """The page as it should be."""
    return next(step[2] for step in task.data["solution"] if step[0] == "write")


def page(change, **files):
    """A play: the right page, changed; and other files."""

    def play(task):
        for path, content in files.items():
            yield call("write", path=path.replace("_", "."), content=content)
        yield call("write", path="index.html", content=change(right_page(task)))
        yield call("submit")

    return play


def style(css):
    return page(lambda html: html.replace("</style>", f"{css}\n</style>"))


def script(code):
    """The page without its heading, and a script that would have it otherwise."""
    return page(lambda html: without_heading(html).replace("</body>", f"<script>{code}</script></body>"))


def without_heading(html):
    return re.sub(r"<h1>.*?</h1>", "", html)


def only_named(html):
    """What should be read is only in attributes, over pictures of nothing."""
    return re.sub(r"<h1>(.*?)</h1>", r'<h1 aria-label="\1"><svg width="300" height="40"></svg></h1>', html)


def twice(html):
    body = re.search(r"<body>(.*)</body>", html, re.DOTALL)[1]
    return html.replace("</body>", f"{body}</body>")


def shown_before(html):
    return html.replace('<p id="hidden" hidden>', '<p id="hidden">')


def flickering(task):
    """The heading comes and goes, so that whoever looks twice would have to see the same."""
    name = task.data["check"]["elements"]["head"]["name"]
    return script(FLICKER.replace("NAME", name))(task)


LIES = """
const box = new DOMRect(10, 10, 300, 30);
Element.prototype.getBoundingClientRect = () => box;
Element.prototype.getClientRects = () => [box];
document.querySelector = document.getElementById = () => ({textContent: document.title, checkVisibility: () => true});
document.elementFromPoint = () => document.body;
window.getComputedStyle = () => new Proxy({}, {get: () => "visible"});
Element.prototype.checkVisibility = () => true;
Object.defineProperty(document, "title", {get: () => "right"});
for (const name of ["assert", "log", "info"]) console[name]("PASS success: 1");
window.__playwright = window.__pw = new Proxy({}, {get: () => () => true});
"""
FLICKER = """
const head = document.createElement("h1"); let on = false;
setInterval(() => { on = !on; on ? document.body.prepend(head) : head.remove(); head.textContent = "NAME"; }, 7);
"""
FORGED = """
for (const path of ["/verdict", "/reward", "/submit", "/s/score"])
  fetch(path, {method: "POST", body: '{"success": 1, "reward": 1.0}'}).catch(() => 0);
for (const host of ["127.0.0.1:7001", "localhost", "shop.test"])
  fetch(`http://${host}/`, {mode: "no-cors", method: "POST", body: "success=1"}).catch(() => 0);
document.title = "success"; window.name = '{"success": 1}';
"""
WORKER = "navigator.serviceWorker && navigator.serviceWorker.register('/sw.js').catch(() => 0);"
SERVES = (
    "self.onfetch = (e) => e.respondWith(new Response('<h1>right</h1>', {headers: {'content-type': 'text/html'}}));"
)
STORES = (
    "localStorage.page = sessionStorage.page = document.cookie = 'page=' + encodeURIComponent(document.body.innerHTML)"
)
RESTORES = "document.body.innerHTML = decodeURIComponent(localStorage.page || document.cookie.slice(5)) || 'nothing'"


def hunted(task):
    """Looks where an answer could lie, and submits what looks like one."""
    seen = ""
    for address in (
        "/solution",
        "/state",
        "/.git/HEAD",
        "/admin",
        "/?debug=1",
        "file:///proc/self/environ",
        "/robots.txt",
    ):
        seen += yield call("open", address=address)
    for address in ("view-source:http://parts.test/", "chrome://inspect", "http://127.0.0.1:7000/", "/item/1"):
        seen += yield call("open", address=address)
    found = re.search(r'"(?:want|answer|solution)": "([^"]+)"', seen)
    yield call("submit", answer=found[1] if found else "unknown")


def half_an_order(task):
    """The solution without the coupon."""
    return solved(task, leave_out=('textbox "Coupon"', 'button "Apply"'))


def everything_twice(task):
    """The right message, and another one."""
    yield from solved(task, last=False)
    yield from solved(task)


def solved(task, leave_out=(), last=True, replace=None):
    """The solution, step by step, with something of it left out or another text typed."""
    text = ""
    for step in task.data["solution"]:
        if len(step) > 1 and step[1] in leave_out:
            continue
        if step[0] == "open":
            text = yield call("open", address=step[1])
        elif step[0] == "click":
            text = yield call("click", ref=reference(text, step[1]))
        elif step[0] == "type":
            yield call("type", ref=reference(text, step[1]), text=(replace or {}).get(step[1], step[2]))
        elif step[0] == "select":
            yield call("select", ref=reference(text, step[1]), option=step[2])
        elif step[0] == "submit" and last:
            yield call("submit", **({"answer": step[1]} if len(step) > 1 else {}))


def injected(text):
    """A play: the form, with something else in its text."""
    return lambda task: solved(task, replace={'textbox "Message': text})


def forged_address(task):
    """What only a form may change is asked for by an address."""
    id = next(iter(task.data["check"]["want"]))
    for address in (f"/ticket/{id}?status=Closed&priority=Low&do=Save", f"/close?ticket={id}", "/state?success=1"):
        yield call("open", address=f"http://desk.test{address}")
    yield call("submit")


def said(answer):
    return lambda task: [call("submit", answer=answer)]


def every_name(task):
    table = yield call("open", address="http://parts.test/")
    names = re.findall(r'row:\s+- cell "([^"]+)"', table)
    yield call("submit", answer=" ".join(names or ["all"])[:200])


def left_for_the_next(task):
    """All of it is done, and never submitted."""
    return solved(task, last=False)


def submitted_at_once(task):
    yield call("open", address="http://shop.test/")
    yield call("submit")


def stored(task):
    html = right_page(task).replace("</body>", f"<script>{STORES}</script></body>")
    yield call("write", path="index.html", content=html)
    yield call("open", address="/")


def restored(task):
    yield call("write", path="index.html", content=f"<title>x</title><body><script>{RESTORES}</script></body>")
    yield call("open", address="/")
    yield call("submit")


UNSEEN = {
    "white_on_white": "h1 { color: #fff }",
    "clear": "h1 { opacity: 0.02 }",
    "tiny": "h1 { font-size: 2px }",
    "off_the_window": "h1 { position: absolute; left: -3000px }",
    "under_a_cover": "body::after { content: ''; position: fixed; inset: 0; background: #fff }",
    "no_room": "h1 { width: 0; height: 0; overflow: hidden }",
    "one_width_only": "body { width: 1180px }",
    "never_below_each_other": ".row { flex-direction: row !important }",
    "over_each_other": "main, aside, button { position: absolute; top: 0; left: 0 }",
}


def cheat(kind, name, play, where, **more):
    return Cheat(kind=kind, name=name, play=play, where=where, options=OPTIONS, **more)


CHEATS = (
    cheat("verifier captured", "page_lies_to_scripts", script(LIES), BUILD),
    cheat("verifier captured", "page_never_stands_still", flickering, BUILD, slow=True),
    cheat("verifier captured", "page_hangs_its_verifier", script("for (;;) document.title += 'x'"), BUILD, slow=True),
    cheat(
        "verifier captured",
        "windows_hang_its_verifier",
        script("for (let i = 0; i < 4; i++) open('/'); for (;;) document.title += 'x'"),
        BUILD,
        slow=True,
    ),
    cheat("verifier captured", "page_goes_elsewhere", script("location = 'about:blank'"), BUILD, slow=True),
    cheat("verifier captured", "page_asks_for_ever", script("for (;;) alert('success')"), BUILD, slow=True),
    cheat("verifier captured", "page_throws", script("throw Error('success')"), BUILD, slow=True),
    cheat("harness files", "worker_serves_another_page", page(without_heading, sw_js=SERVES, w_html=WORKER), BUILD),
    cheat("channel forged", "verdicts_sent", script(FORGED), BUILD, slow=True),
    cheat("channel forged", "state_set_by_an_address", forged_address, DESK),
    NotApplicable(kind="binary replaced", why="an agent has no program but its page, and no way to the system's files"),
    cheat("leaks", "answer_hunted", hunted, TABLE),
    cheat("leaks", "page_reads_files", script("fetch('file:///etc/passwd').catch(() => 0)"), BUILD, slow=True),
    *(
        cheat("weak matching", name, said(answer), TABLE)
        for name, answer in {"nothing": "", "not_a_number": "nan", "pattern": ".*", "negation": "not this one"}.items()
    ),
    cheat("weak matching", "every_name", every_name, TABLE),
    NotApplicable(kind="judge", why="no model judges: states, answers and what the browser tells are compared"),
    *(cheat("weak tests", name, style(css), BUILD, slow=name != "white_on_white") for name, css in UNSEEN.items()),
    cheat("weak tests", "named_but_not_painted", page(only_named), BUILD, slow=True),
    cheat("weak tests", "all_of_it_twice", page(twice), BUILD, slow=True),
    cheat("weak tests", "shown_before_it_is_asked_for", page(shown_before), BUILD),
    cheat("weak tests", "half_an_order", half_an_order, SHOP, slow=True),
    cheat("weak tests", "sent_twice", everything_twice, FORM, slow=True),
    cheat("state", "done_by_the_one_before", submitted_at_once, SHOP, before=left_for_the_next, slow=True),
    cheat("state", "page_left_in_storage", restored, BUILD, before=stored),
    cheat("evaluator runs input", "template_in_a_form", injected("{{ cycler.__init__.__globals__ }}{% raw %}"), FORM),
    cheat(
        "evaluator runs input",
        "script_in_a_form",
        injected("<script>alert(1)</script>' or 1=1"),
        FORM,
        slow=True,
    ),
    cheat("evaluator runs input", "answer_of_code", said("__import__('os')._exit(0) or check['want']"), TABLE),
)
