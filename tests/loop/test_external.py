"""A program in the agent's place: how it ends, what it can reach, and that its traces are those of a built-in agent."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import askesis
from askesis.agents import load_agent
from askesis.chat import load_renderer
from askesis.envs import load_env
from askesis.loop import checkpoints
from askesis.loop.reception import EpisodeReception, reception_of
from askesis.rollout import EpisodeSpec, PolicySpeakers, Roller, Stage, run_episode
from askesis.sandbox import SandboxPool
from askesis.types import ConfigError, Limits, Reward, RunLimits, Task, Thinking, assistant

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ON, OFF = Thinking(), Thinking(enabled=False)
RENDERER = load_renderer(checkpoints.resolve("askesis-tiny"))
PRELUDE = """
import json, os, socket, sys, threading, time, urllib.error, urllib.request
BASE, TASK = os.environ["OPENAI_BASE_URL"], sys.stdin.read()
ME = {"role": "user", "content": TASK}
def post(url, **body):
    headers = {"content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
def said(*messages, **body):
    status, text = post(BASE + "/chat/completions", model="any", messages=list(messages), **body)
    assert status == 200, text
    return json.loads(text)["choices"][0]["message"]
def user(text):
    return {"role": "user", "content": text}
def leave(text):
    open("out", "w").write(text)
"""


class Counts:
    """Says which turn it is, and thinks of it where it may."""

    def __init__(self):
        self.turns = 0

    def act(self, messages, thinking):
        self.turns += 1
        return assistant(f"turn {self.turns}", reasoning="hm" if thinking.enabled else "")


class State:
    def __init__(self, sandbox):
        self.sandbox = sandbox

    async def close(self):
        await self.sandbox.close()


class Room:
    """Pays for a file `out` that says `done`, whoever left it."""

    name = "room"

    def __init__(self, pool):
        self.pool = pool

    async def setup(self, task):
        return State(await self.pool.acquire())

    def tools(self, task, state):
        return []

    async def verify(self, trace, state):
        try:
            left = await state.sandbox.read("out")
        except FileNotFoundError:
            left = b""
        return [Reward(name="success", value=float(left == b"done"))]


async def played(*programs, **limits):
    """The traces of programs, each (source or command, options, mode), that run at the same time."""
    async with SandboxPool(4, RunLimits()) as pool:
        reception, env = EpisodeReception(RENDERER), Room(pool)
        speakers = PolicySpeakers(policy=lambda spec: Counts(), renderer=RENDERER)

        async def play(source, options, mode):
            command = source if isinstance(source, list) else ["python3", "-c", PRELUDE + source]
            agent = load_agent("external", command=command, **options)
            task = Task(env="room", prompt="Say which.", limits=Limits(**limits))
            stage = Stage(speakers=speakers, renderer=RENDERER, env=env, agent=agent, reception=reception)
            return await run_episode(EpisodeSpec(task=task, thinking=mode, group="g", seed=3), stage)

        return await asyncio.gather(*(play(*program) for program in programs))


async def test_who_ended_it():
    programs = {
        "exits": ("said(ME); print('bye'); leave('done')", {}),
        "asks for nothing": ("leave('done')", {}),
        "crashes": ("said(ME); leave('done'); sys.exit(3)", {}),
        "gives up": ("said(ME); leave('done'); sys.exit(4)", {"policy_exits": [4]}),
        "is not there": (["no-such-program"], {}),
        "never stops": ("leave('done')\nwhile True: said(ME)", {}),
        "spins": ("said(ME)\nwhile True: pass", {"cpu_s": 0.7}),
        "kills itself": ("said(ME); os.kill(os.getpid(), 9)", {}),
    }
    traces = await played(*((*program, OFF) for program in programs.values()), max_turns=3)
    ends = {name: (t.outcome.by, t.outcome.reason, t.reward) for name, t in zip(programs, traces, strict=True)}
    assert ends == {
        "exits": ("policy", "exited", 1.0),
        "asks for nothing": ("agent", "error", 0.0),
        "crashes": ("agent", "crashed", 0.0),
        "gives up": ("policy", "exit_4", 1.0),
        "is not there": ("agent", "not_started", 0.0),
        "never stops": ("limit", "max_turns", 1.0),  # killed, and what it left is judged
        "spins": ("limit", "cpu_s", 0.0),
        "kills itself": ("agent", "killed", 0.0),
    }
    by_name = dict(zip(programs, traces, strict=True))
    assert by_name["never stops"].turns == 3
    assert "bye" in by_name["exits"].log
    assert "exited with 3" in by_name["crashes"].outcome.detail
    assert "no such program" in by_name["is not there"].outcome.detail


async def test_a_program_that_hangs_is_killed_and_what_it_left_is_judged():
    hangs = "leave('done'); said(ME); print('here'); time.sleep(1000)"
    trace = (await played((hangs, {}, OFF), wall_s=6.0))[0]
    assert (trace.outcome.by, trace.outcome.reason, trace.reward) == ("limit", "wall_s", 1.0)
    assert "here" in trace.log and "stopped" in trace.log


async def test_an_episode_that_is_shut_down_is_emitted_with_what_was_said():
    """And nothing of it is left: no gateway, no socket, no turn on its way."""
    external = load_agent("external", command=["python3", "-c", PRELUDE + "said(ME); time.sleep(1000)"])
    async with SandboxPool(1, RunLimits()) as pool:
        reception, spoken = EpisodeReception(RENDERER), asyncio.Event()

        class Tells(Counts):
            def act(self, messages, thinking):
                spoken.set()
                return super().act(messages, thinking)

        speakers = PolicySpeakers(policy=lambda spec: Tells(), renderer=RENDERER)
        roller = Roller(speakers, RENDERER, Room(pool), external, reception=reception)
        spec = EpisodeSpec(task=Task(env="room", prompt="Say."), thinking=OFF, group="g", seed=1)
        playing = asyncio.create_task(roller.run([spec]))
        await spoken.wait()
        await asyncio.sleep(0.5)
        socket = Path(reception._path)
        assert socket.is_socket()
        await roller.shutdown()
        [trace] = await playing
    assert trace.outcome.by == "cancelled" and trace.turns == 1
    assert not socket.parent.exists()


WORLD = """
found = {"answer": said(ME)["content"]}
try:
    socket.create_connection(("1.1.1.1", 443), timeout=2)
    found["net"] = "open"
except OSError:
    found["net"] = "closed"
root = BASE.split("/s/")[0]
body = {"model": "m", "messages": [ME]}
found["no session"], _ = post(root + "/v1/chat/completions", **body)
found["another's"], _ = post(root + "/s/" + "0" * 32 + "/v1/chat/completions", **body)
found["sockets"] = [path for path, _, files in os.walk("/tmp") for file in files]
print(json.dumps(found))
"""


async def test_one_door_and_nothing_else():
    """Of all that the gateway serves, a program reaches its own episode; the same name is of no use elsewhere."""
    traces = await played((WORLD, {}, OFF), (WORLD, {}, OFF))
    for trace in traces:
        found = json.loads(trace.log.partition("--- stdout\n")[2].splitlines()[0])
        assert found == {"answer": "turn 1", "net": "closed", "no session": 401, "another's": 401, "sockets": []}
        assert trace.turns == 1


BRANCHES = """
one = said(ME)
two = said(ME, one, user("and now"))
other = said(ME, {"role": "assistant", "content": "I never said that."}, user("and now"))
threads = [threading.Thread(target=said, args=(ME, one, user(f"at once, {n}"))) for n in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
last = said(ME, one, user("and now"), two, user("last"))
assert (one["content"], two["content"], other["content"], last["content"]) == ("turn 1", "turn 2", "turn 3", "turn 6")
"""


async def test_edited_and_simultaneous_histories_are_branches():
    trace = (await played((BRANCHES, {}, OFF)))[0]
    assert trace.outcome.reason == "exited", trace.log
    assert trace.turns == 6 and len(trace.branches()) == 4
    assert [node.parent for node in trace.nodes].count(-1) == 1
    # each sampled token carries loss once, however many branches share it
    assert sum(mask.sum() for _, mask, _, _ in trace.sequences()) == sum(node.mask.sum() for node in trace.nodes)
    whole = RENDERER.decode(trace.sequences()[-1][0])
    texts = [RENDERER.decode(tokens) for tokens, *_ in trace.sequences()]
    assert sum("turn 1" in text and "turn 2" in text and "turn 6" in text for text in texts) == 1
    assert sum("I never said that." in text for text in texts) == 1 and "turn 1" in whole
    told = next(node for node in trace.nodes if "never said" in node.message.text)
    assert not told.sampled and not told.mask.any()


PROTOCOLS = """
plain = said(ME, temperature=0.3, enable_thinking=False, max_tokens=400)
thought = plain.get("reasoning_content") or ""
status, text = post(BASE + "/chat/completions", model="m", messages=[ME], stream=True)
deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in text.splitlines() if line.startswith("data: {")]
streamed = "".join(d.get("content") or "" for d in deltas)
status, text = post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", model="m", max_tokens=99, messages=[ME])
blocks = [block.get("text") for block in json.loads(text)["content"] if block["type"] == "text"]
print(json.dumps([thought, plain["content"], streamed, blocks]))
"""


@pytest.mark.parametrize("mode", [ON, OFF])
async def test_mode_and_sampling_are_the_episodes(mode):
    """Whatever the program asks for, in whichever protocol."""
    trace = (await played((PROTOCOLS, {}, mode)))[0]
    thought = "hm" if mode.enabled else ""
    assert trace.outcome.reason == "exited", trace.log
    assert json.loads(trace.log.partition("--- stdout\n")[2].splitlines()[0]) == [
        *(thought, "turn 1", "turn 2"),
        ["turn 3"],
    ]
    assert {node.temperature for node in trace.nodes} == {None} and trace.temperatures == [1.0]
    assert all((node.thinking_tokens > 0) == mode.enabled for node in trace.nodes if node.sampled)


def agent(**options):
    source = str(EXAMPLES / "openai_agent.py")
    return load_agent("external", command=["{python}", "openai_agent.py"], files=[source], **options)


@pytest.mark.skipif(
    Path(sys.prefix).is_relative_to("/tmp"), reason="not run: programs have a /tmp of their own, which hides this one's"
)
async def test_the_sdk_gives_what_the_built_in_agent_gives():
    """The example, on the official SDK: the same tokens, masks, log-probabilities and pay, task by task."""
    bundle, external = askesis.load("askesis-tiny"), agent()
    env = load_env("repair", runnable=True, mounts=["{prefix}"], workers=3)
    tasks = env.tasks("train", seed=1, limit=3)
    specs = [
        EpisodeSpec(task=task, thinking=(ON, OFF)[at % 2], group=str(at), seed=at) for at, task in enumerate(tasks)
    ]
    engine = bundle.engine(slots=4, context_length=1024)
    try:
        solo = await Roller(engine, bundle.renderer, env, load_agent("solo")).run(specs)
        reception = reception_of(external, bundle.renderer)
        other = await Roller(engine, bundle.renderer, env, external, reception=reception).run(specs)
    finally:
        await engine.close()
        await env.close()
    for mine, theirs in zip(solo, other, strict=True):
        assert theirs.outcome.reason == "exited", (theirs.outcome, theirs.log)
        assert mine.outcome.reason == "submitted" and mine.turns >= 3  # or this has compared very little
        assert (mine.reward, mine.turns) == (theirs.reward, theirs.turns)
        [(tokens, mask, logprobs, versions)], [own] = mine.sequences(), theirs.sequences()
        assert np.array_equal(tokens, own[0]) and np.array_equal(mask, own[1]) and np.array_equal(versions, own[3])
        assert np.allclose(logprobs, own[2], atol=1e-4)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"command": []}, "expected a program"),
        ({"command": "sh -c 'x"}, "cannot be split"),
        ({"command": ["x"], "files": ["no/such/file.py"]}, "cannot read no/such/file.py"),
        ({"command": ["x"], "env": {"A": 1}}, "expected texts by name"),
        ({"command": ["x"], "policy_exits": [0]}, "expected exit codes from 1 to 255"),
        ({"command": ["x"], "memory": -1}, "memory=-1"),
        ({"command": ["x"], "colour": 1}, "do not fit"),
    ],
)
def test_bad_options_say_what_is_wrong(options, said):
    with pytest.raises(ConfigError, match=said):
        load_agent("external", **options)


def test_its_name_is_what_it_is(tmp_path):
    (tmp_path / "a.py").write_text("1")
    names = {load_agent("external", command=command).name for command in ("python3 a.py", ["python3", "a.py"])}
    assert len(names) == 1 and names.pop().startswith("external@1+")
    before = load_agent("external", command="python3 a.py", files=[str(tmp_path / "a.py")]).name
    (tmp_path / "a.py").write_text("2")
    assert before != load_agent("external", command="python3 a.py", files=[str(tmp_path / "a.py")]).name


@pytest.mark.full
def test_it_trains(tmp_path):
    """The recipe of the documentation, three small steps."""
    result = askesis.train(
        EXAMPLES / "external.toml",
        overrides={
            "run.out": str(tmp_path),
            "run.threads": 1,
            "run.steps": 3,
            "agent.options": {"command": ["{python}", "openai_agent.py"], "files": [str(EXAMPLES / "openai_agent.py")]},
            "rollout.tasks_per_step": 2,
            "rollout.group_size": 4,
            "eval.tasks": 0,
        },
    )
    assert result.steps == 3
    assert all(record.infrastructure == 0 and record.episodes == 8 for record in result.history)
    assert result.history[0].began != result.history[-1].made
