"""Whether what decides a task lies about where an agent can read it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from askesis.audit.affordances import Affordances, affordances, answered
from askesis.audit.ground import Ground, Recited, submits
from askesis.audit.probe import Probe, Sighting, Skipped, Tally
from askesis.audit.secrets import Secret, secret
from askesis.audit.submission import Submission, submissions
from askesis.envs.policies import emptiest
from askesis.types import ToolCall, ToolSpec, assistant

TASKS = 4
SUSPICIOUS = re.compile(
    r"(^|/)\.[^./]|answer|solution|gold|expected|reference|secret|hidden|\.orig|\.bak|~$|reward|verif|grad(e|ing)", re.I
)
GUESSED = (
    *(
        "answer.txt",
        "answers.json",
        "solution.txt",
        ".answer",
        ".solution",
        "expected.txt",
        "expected.json",
        "gold.json",
    ),
    *("solution/solve.sh", "solution/solution.py", "reference.py", "tests/expected.json", ".env", "/proc/self/environ"),
    *("/proc/self/cmdline", "/proc/1/environ", "/proc/1/cmdline", ".git/logs/HEAD", ".git/COMMIT_EDITMSG"),
)
# Prints, of texts given in hex, where each was found; they are not spelled out in it, so that it does not find itself.
SCAN = r"""
import glob, os, re, subprocess, time
wanted = {number: [bytes.fromhex(one).decode() for one in texts] for number, texts in %(wanted)r.items()}
found, ends = set(), time.time() + 2
def look(place, text):
    for number, texts in wanted.items():
        for one in texts:
            if one.casefold() not in text.casefold():
                continue
            hit = re.search(r"(?<![\w.])" + re.escape(one) + r"(?![\w]|\.\d)", text, re.I)
            if hit:
                found.add((number, place, " ".join(text[max(0, hit.start() - 40):hit.start()].split())[-40:]))
def read(path):
    try:
        if os.path.isfile(path) or path.startswith("/proc"):
            with open(path, "rb") as file:
                return file.read(200000).decode("utf-8", "replace").replace("\0", "\n")
    except OSError:
        pass
    return ""
look("variables", "\n".join(f"{key}={value}" for key, value in os.environ.items()))
here = os.getcwd()
roots = [here] if %(outside)r else [here, os.path.expanduser("~"), "/tmp", "/var/tmp", "/opt", "/srv", "/mnt", "/data",
         "/tests", "/solution", "/verifier", "/logs", "/root", "/app", "/dev/shm", ".."]
if not %(outside)r:
    for path in [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline")]:
        look("/proc", read(path))
seen = set()
for root in roots:
    for folder, folders, names in os.walk(root):
        folders[:] = [one for one in folders if one not in ("site-packages", "node_modules", ".git", ".pyenv", "lib")]
        for name in names:
            path = os.path.realpath(os.path.join(folder, name))
            if path in seen or time.time() > ends or len(seen) > 1500:
                continue
            seen.add(path)
            look(path[len(here) + 1:] if path.startswith(here + "/") else path, read(path))
try:
    for command in ("git log --all --reflog -p --no-color -n 200", "git stash show -p"):
        ran = subprocess.run(command.split(), capture_output=True, timeout=3)
        look("git", ran.stdout.decode("utf-8", "replace")[:2000000])
    ran = subprocess.run("git cat-file --batch-all-objects --batch", shell=True, capture_output=True, timeout=3)
    look("git", ran.stdout.decode("utf-8", "replace")[:2000000])
except Exception:
    pass
told = "\n".join("FOUND %%d %%s | %%s" %% one for one in sorted(found)[:60])
"""


@dataclass(slots=True)
class Looked:
    """What was found on one task. own, other: places where its secret was seen, and where another task's was."""

    own: dict[str, str] = field(default_factory=dict)
    other: set[str] = field(default_factory=set)

    def at(self, place: str, text: str, mine: Secret, foreign: Secret, *, labelled: bool = False) -> None:
        """Look at a text."""
        if shown := mine.within(text, labelled=labelled):
            self.own.setdefault(place, shown)
        if foreign.within(text, labelled=labelled):
            self.other.add(place)

    @property
    def leaks(self) -> dict[str, str]:
        """Where only its own is: what is there of every task's is no leak of this one's."""
        return {place: shown for place, shown in self.own.items() if place not in self.other}


def odd(specs: Sequence[ToolSpec]) -> list[ToolCall]:
    """Calls that ask for nothing in particular: without arguments, with empty ones, with ones that fit nothing."""
    found = []
    submit = submits(specs)
    for spec in specs:
        if spec is not submit:
            base = emptiest(spec.parameters)
            texts = {name: "zzqx" for name, value in base.items() if isinstance(value, str)}
            for arguments in ({}, base, base | texts, base | {"zzqx": 1}):
                found.append(ToolCall(id="call_0", name=spec.name, arguments=arguments))
    return found


async def by_calls(ground: Ground, one: Submission, mine: Secret, foreign: Secret, seen: Looked) -> None:
    """What tools answer to calls that ask for nothing. Of a tool that the oracle uses too, only what is labelled as the
    answer, or an error, counts: what it has to tell may well be what is asked for."""
    calls = odd(await ground.tools(one.task))
    used = {call.name for message in one.messages for call in message.tool_calls[:-1] or message.tool_calls}
    works = len([message for message in one.messages if message.tool_calls]) > 1
    for name in dict.fromkeys(call.name for call in calls):  # an episode each: one that breaks hides no other
        script = [assistant(tool_calls=tuple(call for call in calls if call.name == name))]
        (trace,) = await ground.play_all([(one.task, lambda task, specs, script=script: Recited(script))])  # type: ignore[misc]
        heard = [node.message.text for node in trace.nodes if node.message.role == "tool"]
        for event, text in zip(trace.tool_events, heard, strict=False):
            free = event.status != "ok" or (works and name not in used)
            seen.at(f"what {name} answers", text, mine, foreign, labelled=not free)
        seen.at(f"how {name} fails", trace.outcome.detail, mine, foreign)


async def by_running(
    ground: Ground, one: Submission, mine: Secret, foreign: Secret, can: Affordances, seen: Looked
) -> None:
    """Variables, processes, version control, and files that are not the task's own material."""
    way = can.runs[0]
    wanted = {n: [text.encode().hex() for text in given.texts] for n, given in enumerate((mine, foreign))}
    told = await answered(ground, one.task, [way.python(SCAN % {"wanted": wanted, "outside": way.outside})])
    asked = " ".join([one.task.prompt, *(json.dumps(dict(c.arguments)) for m in one.messages for c in m.tool_calls)])
    for number, place, before in re.findall(r"FOUND (\d) (.*?) \| (.*)", "\n".join(told)):
        name = place.rsplit("/", 1)[-1]
        if name in asked or (place == "git" and "git" in asked) or (place == "variables" and "env" in asked):
            continue
        label = Secret(("x",)).within(before + " x" if before[-1:].isspace() else before + "x", labelled=True)
        file = place not in ("variables", "/proc", "git")
        if file and not place.startswith("/") and not SUSPICIOUS.search(place) and not label:
            continue
        if number == "0":
            seen.own.setdefault(place, before)
        else:
            seen.other.add(place)


async def by_reading(
    ground: Ground, one: Submission, mine: Secret, foreign: Secret, can: Affordances, seen: Looked
) -> None:
    """Files of usual names, where a tool reads files and none runs anything."""
    asked = " ".join(json.dumps(dict(call.arguments)) for message in one.messages for call in message.tool_calls)
    paths = [path for path in GUESSED if path not in asked and path not in one.task.prompt]
    calls = [can.reads[0].call(path) for path in paths]
    for path, text in zip(paths, await answered(ground, one.task, calls), strict=False):
        seen.at(path, text, mine, foreign)


async def looked(ground: Ground, one: Submission, mine: Secret, foreign: Secret) -> Looked:
    """All places, on one task."""
    seen, task = Looked(), one.task
    seen.at("the prompt", task.prompt, mine, foreign, labelled=True)
    specs = await ground.tools(task)
    seen.at("the tools' descriptions", "\n".join(json.dumps(spec.as_json()) for spec in specs), mine, foreign)
    if specs:
        await by_calls(ground, one, mine, foreign, seen)
        can = await affordances(ground, task)
        if can.runs:
            await by_running(ground, one, mine, foreign, can, seen)
        elif can.reads:
            await by_reading(ground, one, mine, foreign, can, seen)
    return seen


async def run(ground: Ground) -> Sighting:
    """Look for each task's answer, and for another task's beside it, in the prompt, the tools' descriptions and errors,
    in variables, processes, version control and files: a place where only the own one is gives it away. Where finding
    it is the task (the oracle goes there), or a text merely contains it, that is no leak."""
    known: list[tuple[Submission, Secret]] = []
    for one in await submissions(ground):
        found = secret(one)
        if found is not None:
            known.append((one, found))
    pairs = [
        (one, mine, next((other for _, other in known[place + 1 :] + known[:place] if other != mine), None))
        for place, (one, mine) in enumerate(known)
    ]
    usable = [(one, mine, other) for one, mine, other in pairs if other is not None][:TASKS]
    if not usable:
        raise Skipped("the answers are too short or too much alike to be looked for")
    seen = Tally()
    for one, mine, other in usable:
        leaks = (await looked(ground, one, mine, other)).leaks
        place = next(iter(leaks), "")
        evidence = f"{place} gives away {mine.texts[0][:100]!r}: ...{leaks.get(place, '')[:200]}"
        seen.add(bool(leaks), evidence, task=one.task.id)
        if ground.left_s <= 0:
            break
    return seen.sighting()


PROBE = Probe(
    name="leaks",
    axis="validity",
    flaw="answer leaked",
    severity="high",
    about="what decides a task is not in its prompt, tools, errors, variables, processes, history or files",
    run=run,
    seconds=3.0,
)
