"""`askesis envs`: what a person sees who looks for an environment, makes one, checks it and plays it."""

import io
import json
import subprocess
import sys
import tomllib

import pytest
from mcp import Client, StdioServerParameters
from toy_env import TOY

from askesis.envs import ADAPTERS, BUILT_IN, load_env
from askesis.loop import load_recipe
from askesis.rollout import TraceStore


@pytest.fixture
def made(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("envs", "new", "my_task")
    assert done.code == 0 and "askesis envs check my_task.py:MyTask" in done.out
    monkeypatch.chdir(tmp_path / "my_task")
    return tmp_path / "my_task"


@pytest.fixture
def typed(monkeypatch):
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_list(cli):
    rows = {row["name"]: row for row in json.loads(cli("envs", "list", "--json").out)["environments"]}
    assert set(rows) == set(BUILT_IN)
    assert rows["repair"]["about"].startswith("A small Python module has one to three faults.")
    assert "max_turns" in rows["repair"]["options"] and not rows["repair"]["missing"]
    others = json.loads(cli("envs", "list", "--json").out)["adapters"]
    assert [one["prefix"] for one in others] == list(ADAPTERS)
    assert all(one["form"].startswith(f"{one['prefix']}:") and one["about"] for one in others)
    text = cli("envs", "list").out
    assert all(len(line) <= 80 for line in text.splitlines())


def test_new_passes_its_checks_and_its_own_test(cli, made):
    done = cli("envs", "check", "my_task.py:MyTask", "--tasks", 12, "--secret", "number", "--json")
    report = json.loads(done.out)
    assert done.code == 0 and report["ok"], [one for one in report["checks"] if one["state"] != "ok"]
    assert {one["state"] for one in report["checks"]} == {"ok"}
    assert report["policies"]["oracle"]["success"] == 1.0
    assert load_recipe(made / "train.toml").env.name == load_recipe(made / "cold_start.toml").env.name
    assert tomllib.loads((made / "cold_start.toml").read_text())["run"]["kind"] == "sft"
    own = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    assert subprocess.run(own, cwd=made, capture_output=True, check=False).returncode == 0
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", "."]
    assert subprocess.run(ruff, cwd=made, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("name", "said"), [("My-Task", "small letters"), ("repair", "is taken"), ("class", "small")])
def test_new_refuses(cli, tmp_path, name, said):
    done = cli("envs", "new", name, "--in", tmp_path)
    assert done.code == 2 and said in done.err


def test_check_says_what_where_got_and_expected(cli, made):
    source = (made / "my_task.py").read_text()
    flaws = {
        "rng.sample(COLOURS": "rng.sample(sorted(COLOURS, key=hash)",
        '"number": number}': '"number": number, "answer": names[0] * 2}',
        'prompt=f"Open {names[0]}."': 'prompt=f"Open {names[0]}. Not {names[0] * 2}."',
        "right = state.given ==": "right = state.given is None or state.given ==",
    }
    for old, new in flaws.items():
        assert old in source
        source = source.replace(old, new)
    (made / "my_task.py").write_text(source)
    done = cli("envs", "check", "my_task.py:MyTask", "--tasks", 6, "--json")
    found = {one["name"]: one for one in json.loads(done.out)["checks"] if one["state"] != "ok"}
    assert done.code == 1
    assert "PYTHONHASHSEED" in found["fresh process"]["where"]
    assert "data['answer']" in found["secrets"]["got"] and "the prompt of task" in found["secrets"]["where"]
    assert "policy, stopped" in found["null"]["got"]
    text = cli("envs", "check", "my_task.py:MyTask", "--tasks", 6).out
    assert "wrong  fresh process    where" in text and "expected  the same tasks" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_check_of_what_cannot_be_set_up(cli):
    done = cli("envs", "check", TOY, "--option", "broken=100", "--tasks", 3, "--json")
    found = [one for one in json.loads(done.out)["checks"] if one["state"] == "wrong"]
    assert done.code == 1 and found[0]["name"] == "setup" and "the disk is full" in found[0]["got"]
    assert cli("envs", "check", "repare").code == 2


def test_play_by_hand_through_a_pipe(cli, made, typed):
    task = load_env("my_task.py:MyTask").tasks("heldout", limit=2)[1]
    first = task.prompt.removeprefix("Open ").rstrip(".")
    typed(f"opn x\n/tools\n/help\nopen\nopen {first}\nanswer number={task.data['number']}\n")
    done = cli("envs", "play", "my_task.py:MyTask", "--task", 1, "--save", "played.db")
    assert done.code == 0
    for part in (task.prompt, "open(box: string)", "did you mean 'open'?", "'box' is a required", "success", "reward"):
        assert part in done.out, part
    assert "ended by policy, submitted after 3 turns" in done.out
    with TraceStore("played.db", readonly=True) as store:
        (trace,) = store.traces(label="play")
    assert (trace.success, trace.harness) == (True, "person@1")
    typed('open {"box": "nowhere"}\n{"name": "answer", "arguments": {"number": "0"}}\n')
    result = json.loads(cli("envs", "play", "my_task.py:MyTask", "--json").out)
    assert (result["success"], [one["tool"] for one in result["calls"]]) == (False, ["open", "answer"])
    typed("answer number=<<END\n1\n2\nEND\n")
    assert json.loads(cli("envs", "play", "my_task.py:MyTask", "--json").out)["outcome"]["reason"] == "submitted"
    typed("")
    assert json.loads(cli("envs", "play", "my_task.py:MyTask", "--json").out)["outcome"]["reason"] == "stopped"
    assert "has 100" not in cli("envs", "play", "my_task.py:MyTask", "--split", "tset").out


def test_a_person_plays_all_of_a_team(cli, typed, tmp_path):
    """The orchestrator's part and a specialist's, each with the tools that it has; a client of MCP is told why not."""
    env = load_env("team", levels=[2])
    (task,) = env.tasks("heldout", limit=1)
    office, ship = task.data["decides"][0][0], task.prompt.partition("commas: ")[2].partition("'s")[0]
    typed(
        f"look {ship}\ndelegate {office} 'whatever you have on {ship}'\nlook {ship}\n/task\n/say so it is\nanswer x\n"
    )
    done = cli("envs", "play", "team", "--option", "levels=[2]", "--save", tmp_path / "team.db")
    assert done.code == 0 and "no tool 'look' (tools: answer, delegate)" in done.out
    first, _, then = done.out.partition(f"now as {office}")
    assert "look(ship: string" in then and "look(ship: string" not in first
    assert then.count(f"whatever you have on {ship}") == 2 and f"{ship}'s" in then and "so it is" in then
    assert "ended by policy, submitted after 4 turns" in done.out
    with TraceStore(tmp_path / "team.db", readonly=True) as store:
        (trace,) = store.traces(label="play")
    assert [(fork.kind, fork.name, fork.outcome.reason) for fork in trace.forks] == [("agent", office, "stopped")]
    refused = cli("envs", "serve-mcp", "team")
    assert refused.code == 2 and "wants sub-agents" in refused.err


async def test_any_mcp_client_plays_and_never_hears_the_reward(made):
    env = load_env("my_task.py:MyTask")
    task = env.tasks("heldout", limit=1)[0]
    args = ["-m", "askesis", "envs", "serve-mcp", "my_task.py:MyTask", "--result", "result.json"]
    async with Client(StdioServerParameters(command=sys.executable, args=args, cwd=made)) as client:
        assert client.instructions == task.prompt
        assert [one.name for one in (await client.list_tools()).tools] == ["open", "answer"]
        assert (await client.get_prompt("task")).messages[0].content.text == task.prompt
        wrong = await client.call_tool("open", {"bx": 1})
        assert wrong.is_error and "'box' is a required" in wrong.content[0].text
        opened = await client.call_tool("open", {"box": task.prompt.split()[1].rstrip(".")})
        assert not opened.is_error
        last = await client.call_tool("answer", {"number": task.data["number"]})
        assert last.content[0].text == "thanks"
        after = await client.call_tool("open", {"box": "red"})
        assert after.is_error and "over" in after.content[0].text
    result = json.loads((made / "result.json").read_text())
    assert (result["success"], result["turns"], result["outcome"]["reason"]) == (True, 3, "submitted")
