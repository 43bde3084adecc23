"""Harbor task folders at their door: three in the published format, and what is wrong with many another."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cheating import Scripted, call

from askesis.agents import load_agent
from askesis.chat import Qwen3Renderer, train_bpe
from askesis.envs import load_env
from askesis.envs.adapters.harbor_tests import Verdict, Verified
from askesis.loop.checking import Checker
from askesis.rollout import EpisodeOptions, EpisodeSpec, PolicySpeakers, Stage, run_episode
from askesis.types import ConfigError, EnvError, Thinking

TASKS = Path(__file__).with_name("harbor_tasks")
RENDERER = Qwen3Renderer(train_bpe(["run"], 300))
LOOK = "ls -a / /tests /logs /solution; env; find / -name 'wanted*' -o -name solve.sh 2>/dev/null"


async def play(env, task, *commands, submits=True):
    steps = [call("run", command=command) for command in commands] + [call("submit")] * submits
    policy = commands[0] if hasattr(commands[0], "act") else Scripted(lambda task: steps, task)
    stage = Stage(
        speakers=PolicySpeakers(lambda spec: policy, RENDERER), renderer=RENDERER, env=env, agent=load_agent("solo")
    )
    task = replace(task, limits=replace(task.limits, max_turn_tokens=10**6))
    return await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)


def heard(trace):
    """What the agent read."""
    return "\n".join(node.message.text for node in trace.nodes if node.message.role == "tool")


def terms(trace):
    return {term.name: term.value for term in trace.rewards}


@pytest.fixture
async def env():
    env = load_env(f"harbor:{TASKS}", heldout=0.0)
    yield env
    await env.close()


def named(env, name):
    return next(task for task in env.tasks("train") if name in task.data["folder"])


def folder(tmp_path, *, test="echo 1 > /logs/verifier/reward.txt", toml="", docker=None, files=()):
    """A task folder of one's own."""
    place = tmp_path / "task"
    for below in ("environment", "tests"):
        (place / below).mkdir(parents=True)
    (place / "instruction.md").write_text("Do it.")
    (place / "task.toml").write_text(toml)
    (place / "tests" / "test.sh").write_text(test)
    for name in files:
        (place / "environment" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "environment" / name).write_text(name)
    if docker is not None:
        (place / "environment" / "Dockerfile").write_text(docker)
    return place


async def test_folders_keep_all_that_an_environment_promises():
    report = await Checker(f"harbor:{TASKS}", options={"heldout": 0.7, "unfit": "skip"}, tasks=2).run()
    assert {one.name for one in report.checks if one.state != "ok"} <= {"tasks", "seeds", "setup"}
    assert report.policies["oracle"].rows[0].summary.success == 1.0
    assert report.policies["random"].rows[0].summary.success == 0.0


async def test_a_solution_is_paid_in_full_and_half_of_the_work_by_half(env):
    for task in env.tasks("train"):
        trace = await play(env, task, env.oracle(task))
        assert trace.success and trace.reward == 1.0, (task.data, [node.message.text for node in trace.nodes])
        assert terms(trace)["tests_broken"] == 0.0
    half = await play(env, named(env, "totals"), 'echo \'{"ann": 8, "bob": 4}\' > /work/totals.json; pwd; ls -l bin')
    assert terms(half) == {
        **{"success": 0.0, "reward": 0.5, "tests_broken": 0.0},
        **{"tests/file": 1.0, "tests/script": 0.0},
    }
    assert "rwxr-xr-x" in heard(half)  # what could be run in the folder can be run here
    unsubmitted = await play(
        env, named(env, "greeting"), "echo 'Hello, world!' > hello.txt; echo 13 > length.txt", submits=0
    )
    assert unsubmitted.outcome.reason == "stopped" and unsubmitted.reward == 1.0  # as Harbor has it


async def test_what_decides_the_reward_is_not_there_and_what_is_forged_does_not_pay(env):
    task = named(env, "greeting")
    looked = await play(env, task, LOOK)
    said = heard(looked)
    assert "'/tests': No such file" in said and "'/logs': No such file" in said
    assert "wanted" not in said and "solve.sh" not in said
    forged = (
        "mkdir -p /logs/verifier logs/verifier tests; "
        "for at in /logs/verifier logs/verifier . tests; do echo 1 > $at/reward.txt; done"
    )
    shims = (
        "mkdir -p ~/.local/bin ~/bin /app/bin ~/.local/lib/python3.11/site-packages; for name in cat bash python3; do "
        "printf '#!/bin/sh\\necho 13' | tee ~/.local/bin/$name ~/bin/$name bin/$name $name; done; chmod +x * */* "
        "~/.local/bin/*; echo 'PATH=~/bin:$PATH' | tee ~/.bashrc ~/.profile ~/.bash_profile ~/.bash_env; "
        "export BASH_ENV=~/.bash_env PATH=~/bin:$PATH"
    )
    daemon = (
        "setsid sh -c 'cd /tmp; while mkdir -p logs/verifier; do echo 1 > logs/verifier/reward.txt; done' & sleep 0.2"
    )
    links = "ln -s /tmp/logs tests; ln -s / root; mkdir .reward; ln -s /app/hello.txt length.txt"
    for attempt in (forged, shims, daemon, links):
        trace = await play(env, task, attempt)
        assert trace.outcome.reason == "submitted" and terms(trace)["reward"] == 0.0, attempt


async def test_who_breaks_the_tests_gets_the_lowest_reward_and_is_not_played_again(env):
    task = named(env, "module")
    for name, code in {
        "hangs": "import time; time.sleep(1e4)",
        "kills": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    }.items():
        trace = await play(env, task, f"cat > roman.py <<'END'\n{code}\nEND")
        assert (trace.outcome.by, trace.reward, terms(trace).get("tests_broken")) == ("policy", 0.0, 1.0), (
            name,
            trace.outcome,
        )
        assert trace.rewards[1].evidence


async def test_tests_may_take_as_long_as_their_folder_says(env):
    """And not only as long as other verifiers: else who makes them slow would be played again."""
    speakers = PolicySpeakers(lambda spec: Scripted(lambda task: [call("submit")], spec.task), RENDERER)
    stage = Stage(
        speakers=speakers, renderer=RENDERER, env=env, agent=load_agent("solo"), options=EpisodeOptions(verify_s=0.001)
    )
    task = named(env, "greeting")
    trace = await run_episode(EpisodeSpec(task=task, thinking=Thinking(enabled=False), group="g", seed=0), stage)
    assert trace.outcome.by == "policy" and terms(trace)["reward"] == 0.0


async def test_tests_that_run_the_submission_within_themselves_can_be_captured(env):
    """What docs/threat_model.md says is not protected: true until the tests are others."""
    trace = await play(env, named(env, "module"), "echo 'import os; os._exit(0)' > roman.py")
    assert trace.reward == 1.0


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("echo nan > /logs/verifier/reward.txt", "nan"),
        ("echo 7 > /logs/verifier/reward.txt", "not between 0 and 1"),
        ('echo \'{"a": 1, "b": 0}\' > /logs/verifier/reward.json', "no 'reward'"),
        ("echo '{\"reward\": true}' > /logs/verifier/reward.json", "finite number"),
        ("echo 1", "left no reward.txt"),
        ("sleep 100", "stopped by their wall limit"),
    ],
)
async def test_a_folder_whose_tests_give_no_verdict_is_the_verifiers_failure(tmp_path, test, said):
    place = folder(tmp_path, test=test, toml="[verifier]\ntimeout_sec = 1")
    env = load_env(f"harbor:{place}", heldout=0)
    trace = await play(env, env.tasks("train")[0], "true")
    assert (trace.outcome.by, trace.outcome.reason, trace.rewards) == ("verifier", "error", ())
    assert said in trace.outcome.detail and "on an untouched tree" in trace.outcome.detail
    await env.close()


async def test_tests_that_once_gave_no_verdict_on_an_untouched_tree_are_asked_again(env, monkeypatch):
    """The machine was at fault then; a folder is not given up for it, and who breaks its tests does not get away."""
    tested, failing = type(env)._tested, [True, True]

    async def unlucky(self, one, snapshot):
        return Verified(wrong="no memory") if failing and failing.pop() else await tested(self, one, snapshot)

    monkeypatch.setattr(type(env), "_tested", unlucky)
    kills = "echo 'import os, signal; os.kill(os.getppid(), signal.SIGKILL)' > roman.py"
    lost = await play(env, named(env, "module"), kills)
    assert lost.outcome.by == "verifier" and "on an untouched tree: no memory" in lost.outcome.detail
    broken = await play(env, named(env, "module"), kills)
    assert (broken.outcome.by, broken.reward, terms(broken)["tests_broken"]) == ("policy", 0.0, 1.0), broken.outcome


def test_reward_files_are_read_strictly():
    verdict = Verdict(lowest=-1.0, highest=1.0, key="reward")
    assert verdict.of("reward.txt", b" 0.25\n").reward == 0.25
    assert verdict.of("reward.json", b'{"score": 1}').reward == 1.0
    assert verdict.of("reward.json", b"-1").reward == -1.0
    found = verdict.of("reward.json", b'{"reward": 0, "tests": 3e2}')
    assert (found.reward, found.others, found.wrong) == (0.0, {"tests": 300.0}, "")
    for name, data in (
        ("reward.txt", b"1 1"),
        ("reward.txt", b"1_0"),
        ("reward.txt", b"inf"),
        ("reward.txt", b"\xff"),
        ("reward.txt", b"0" * 70000),
        ("reward.json", b"1e999"),
        ("reward.json", b"NaN"),
        ("reward.json", b'{"reward": "1"}'),
        ("reward.json", b"[1]"),
        ("reward.json", b"{}"),
        ("reward.json", b"[" * 60000),
    ):
        assert verdict.of(name, data).wrong, data[:20]


@pytest.mark.parametrize(
    ("docker", "toml", "said"),
    [
        (
            "FROM ubuntu:24.04\nRUN apt-get update \\\n && apt-get install -y git",
            "",
            "builds an image: RUN apt-get update",
        ),
        ("FROM postgres:16", "", "'postgres:16', which brings more than an ordinary system"),
        ("FROM ghcr.io/x/python:3 AS a\nFROM a", "", "in several stages"),
        ("FROM debian\nCOPY a.txt /etc/a.txt", "", "outside of its WORKDIR /app"),
        ("FROM debian\nCOPY b.txt .", "", "copies b.txt, which is not in environment/"),
        ("FROM debian\nCOPY ../../x .", "", "which is not in environment/"),
        ("FROM debian\nCOPY --from=x a.txt .", "", "only 'COPY files... folder'"),
        ("FROM debian\nADD https://a.b/c .", "", "more than a copy"),
        ("FROM debian\nENV A=$B", "", "has a variable in it"),
        ("FROM debian\nVOLUME /x", "", "builds an image: VOLUME"),
        (None, "[environment]\ndocker_image = 'x'", "it needs the image 'x'"),
        (None, "[environment]\ngpus = 1", "an accelerator"),
        (None, "[[steps]]\nname = 'a'", "several steps"),
        (None, "[verifier.env]\nKEY = '${HOST_KEY}'", "takes a variable of the host"),
        (None, "[agent]\ntimeout_sec = -1", "seconds above 0"),
        (None, "[environment]\nmemory = 'much'", "a size such as '2G'"),
        (None, "agent = 3", "expected a table"),
        (None, "a = ", "cannot be read"),
        (None, "[environment]\nworkdir = '/usr/src'", "expected an absolute path outside"),
    ],
)
def test_a_folder_that_cannot_be_run_here_says_why(tmp_path, docker, toml, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(").replace("$", r"\$")):
        load_env(f"harbor:{folder(tmp_path, docker=docker, toml=toml, files=['a.txt'])}")


async def test_folders_are_shared_out_and_unfit_ones_left_out_where_that_is_wished(tmp_path):
    for number in range(24):
        shutil.copytree(TASKS / "greeting", tmp_path / f"t{number:02}")
        (tmp_path / f"t{number:02}" / "instruction.md").write_text(f"Task {number}")
    (tmp_path / "t03" / "tests" / "test.sh").unlink()
    (tmp_path / "t05" / "environment" / "Dockerfile").write_text("FROM ubuntu\nRUN make")
    with pytest.raises(ConfigError, match=r"2 of 24 .* options.unfit = 'skip'(.|\n)*t03: it has no tests/test.sh"):
        load_env(f"harbor:{tmp_path}")
    env = load_env(f"harbor:{tmp_path}", unfit="skip", heldout=0.25)
    train, heldout = env.tasks("train"), env.tasks("heldout")
    assert len(train) + len(heldout) == 22 and 1 <= len(heldout) <= 11
    assert not {task.id for task in train} & {task.id for task in heldout}
    assert [task.id for task in env.tasks("train", seed=1)] != [task.id for task in train]
    assert train[0].limits.wall_s == 120.0
    (tmp_path / "other").mkdir()
    other = load_env(f"harbor:{folder(tmp_path / 'other')}", heldout=1)
    with pytest.raises(ConfigError, match="none of them in the 'train' split"):
        other.tasks("train")
    with pytest.raises(EnvError, match="no task folder with the content"):
        await env.setup(other.tasks("heldout")[0])
    for wrong in (f"harbor:{tmp_path / 'none'}", f"harbor:{TASKS / 'module' / 'tests'}"):
        with pytest.raises(ConfigError, match=r"no (task )?folder"):
            load_env(wrong)


async def test_files_lie_where_a_dockerfile_copies_them(tmp_path):
    docker = (
        "FROM docker.io/library/python:3.12 AS base\nWORKDIR /srv/x\nCOPY --chown=1 *.txt sub/ deep/\n"
        'ADD c.md d.md\nENV A 1 2\nCMD ["x"]'
    )
    files = ["a.txt", "b.txt", "sub/e", "c.md"]
    place = folder(tmp_path, docker=docker, files=files, test="find . -type f | sort > /logs/verifier/reward.json; env")
    env = load_env(f"harbor:{place}", heldout=0)
    task = env.tasks("train")[0]
    trace = await play(env, task, "cd /srv/x; find . -type f | sort | xargs; echo $A")
    assert heard(trace).startswith("./d.md ./deep/a.txt ./deep/b.txt ./deep/e\n1 2")
    await env.close()
