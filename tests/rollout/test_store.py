"""Traces come back as they went in; the ledger proves that nothing is skipped and nothing trained twice."""

import multiprocessing
import os
import random
import signal
import sqlite3
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askesis.rollout import GIVEN_UP, Draw, Lengths, TraceStore
from askesis.types import (
    Artifact,
    Group,
    Limits,
    Message,
    Node,
    Outcome,
    ParseFailure,
    Reasoning,
    Reward,
    StoreError,
    Task,
    Text,
    Thinking,
    Timing,
    ToolCall,
    ToolEvent,
    Trace,
)

TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)  # lone surrogates too
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    parts=st.lists(st.builds(Text, text=TEXT) | st.builds(Reasoning, text=TEXT), max_size=2).map(tuple),
    tool_calls=st.lists(
        st.builds(ToolCall, id=TEXT, name=TEXT, arguments=st.dictionaries(TEXT, JSON, max_size=2), raw=TEXT), max_size=2
    ).map(tuple),
    tool_call_id=st.none() | TEXT,
    failures=st.lists(
        st.builds(
            ParseFailure,
            kind=st.sampled_from(["unterminated", "malformed", "shape"]),
            detail=TEXT,
            raw=TEXT,
            syntax=st.sampled_from(["json", "xml"]),
        ),
        max_size=1,
    ).map(tuple),
)


@st.composite
def nodes(draw):
    n = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Node(
        parent=draw(st.integers(-1, 5)),
        message=draw(MESSAGES),
        sampled=draw(st.booleans()),
        token_ids=rng.integers(0, 2**31 - 1, n, dtype=np.int32),
        mask=rng.random(n) < 0.5,
        logprobs=rng.standard_normal(n).astype(np.float32),
        policy_versions=rng.integers(-1, 9, n, dtype=np.int32),
        finish_reason=draw(st.sampled_from(["", "stop", "length"])),
        started_s=draw(FLOATS),
        ended_s=draw(FLOATS),
        thinking_tokens=draw(st.integers(0, 99)),
        forced_close=draw(st.booleans()),
    )


TRACES = st.builds(
    Trace,
    id=st.uuids().map(str),
    task=st.builds(
        Task,
        env=TEXT,
        prompt=TEXT,
        data=st.dictionaries(TEXT, JSON, max_size=2),
        limits=st.builds(Limits),
        split=st.sampled_from(["train", "heldout"]),
        id=st.just("t"),
    ),
    harness=TEXT,
    nodes=st.lists(nodes(), max_size=4).map(tuple),
    rewards=st.lists(st.builds(Reward, name=TEXT, value=FLOATS, weight=st.just(1.0)), max_size=2).map(tuple),
    outcome=st.builds(Outcome, by=st.sampled_from(["policy", "tool"]), reason=TEXT, detail=TEXT),
    timing=st.builds(Timing, setup_s=FLOATS, total_s=FLOATS),
    thinking=st.builds(
        Thinking,
        enabled=st.booleans(),
        budget=st.none() | st.integers(0, 9),
        episode_budget=st.none() | st.integers(0, 9),
    )
    | st.builds(Thinking, effort=st.floats(0, 1)),
    tool_events=st.lists(
        st.builds(ToolEvent, node=st.integers(0, 9), name=TEXT, seconds=FLOATS, status=TEXT, fault=TEXT), max_size=2
    ).map(tuple),
    seed=st.integers(0, 2**63 - 1),
    attempt=st.integers(0, 3),
    temperature=FLOATS,
    group=TEXT,
    artifacts=st.lists(
        st.builds(Artifact, name=TEXT, media_type=TEXT, data=st.binary(max_size=9), node=st.integers(-1, 9), call=TEXT),
        max_size=2,
    ).map(tuple),
)

_BY_TOKEN = ("token_ids", "mask", "logprobs", "policy_versions")


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@given(st.lists(TRACES, max_size=3, unique_by=lambda trace: trace.id))
@settings(max_examples=40)
def test_round_trip(tmp_path_factory, traces):
    path = tmp_path_factory.mktemp("store") / "traces.db"
    with TraceStore(path) as store:
        store.add(traces, label="train", step=2)
    with TraceStore(path, readonly=True) as store:
        assert same(tuple(store.traces()), tuple(traces))
        assert all(same(store.get(trace.id), trace) for trace in traces)


def trace(id, *, group="g", success=True, by="policy", version=0, mode=None, attempt=0):
    spoken = Node(
        parent=-1,
        message=Message(role="assistant"),
        sampled=True,
        token_ids=np.arange(5, dtype=np.int32),
        mask=np.ones(5, dtype=np.bool_),
        logprobs=np.zeros(5, dtype=np.float32),
        policy_versions=np.full(5, version, dtype=np.int32),
        finish_reason="stop",
        thinking_tokens=2,
    )
    return Trace(
        id=id,
        task=Task(env="e", prompt="p"),
        harness="solo@1",
        nodes=(spoken,),
        rewards=(Reward(name="success", value=float(success)),) if by == "policy" else (),
        outcome=Outcome(by=by, reason="submitted" if by == "policy" else "error"),
        timing=Timing(),
        thinking=mode or Thinking(),
        group=group,
        attempt=attempt,
    )


def group_of(name, *traces):
    return Group(id=name, task=traces[0].task, thinking=traces[0].thinking, traces=traces)


def test_filters_and_figures(tmp_path):
    off = Thinking(enabled=False)
    failed, again = trace("a0", by="tool"), trace("a1", success=False, attempt=1)
    with TraceStore(tmp_path / "t.db") as store:
        store.add([failed, again, trace("b")], label="train", step=1, group=group_of("g", again, trace("b")))
        store.add([trace("c", mode=off), trace("d", mode=off, by="engine")], label="eval", step=1)
        assert [t.id for t in store.traces(label="train")] == ["a0", "a1", "b"]
        assert [t.id for t in store.traces(label="train", final=True)] == ["a1", "b"]
        assert [t.id for t in store.traces(mode="no_think", learnable=True)] == ["c"]
        evaluation, training = store.summary()
        assert (training.label, training.step, training.mode) == ("train", 1, "think")
        assert (training.episodes, training.learnable, training.success, training.tokens) == (2, 2, 0.5, 5.0)
        assert (evaluation.episodes, evaluation.learnable, evaluation.success) == (2, 1, 1.0)
        assert store.outcomes(label="train") == {"policy:submitted": 2, "tool:error": 1}
        with pytest.raises(StoreError, match="contradicts"):
            store.add([trace("new"), trace("a0")])
        with pytest.raises(StoreError, match="no trace 'new'"):
            store.get("new")


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "text.db").write_text("no database at all, but some text\n" * 99)
    with pytest.raises(StoreError, match="not a database"):
        TraceStore(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(StoreError, match="no trace store of Askesis"):
        TraceStore(tmp_path / "other.db")
    with pytest.raises(StoreError, match="no trace store at"):
        TraceStore(tmp_path / "absent.db", readonly=True)
    with TraceStore(tmp_path / "t.db") as store:
        store.add([trace("a")])
        with pytest.raises(StoreError, match="has a writer already"):
            TraceStore(tmp_path / "t.db")
        with TraceStore(tmp_path / "t.db", readonly=True) as reader:
            assert reader.get("a").id == "a"
            with pytest.raises(StoreError, match="read-only"):
                reader.add([trace("b")])
    file = sqlite3.connect(tmp_path / "t.db")
    file.execute("UPDATE traces SET logprobs = x'00'")
    file.commit()
    with TraceStore(tmp_path / "t.db") as store, pytest.raises(StoreError, match="trace a is damaged"):
        store.get("a")
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(StoreError, match="schema 99"):
        TraceStore(tmp_path / "t.db")


def step_of(store, step, *, groups=2, checkpoint=True, commit=True, tag="", pause=lambda: None):
    """One step as a run does it: draw, roll out, train, commit; `pause` is where a kill may fall."""
    ledger, first = store.ledger, store.ledger.position()
    names = [f"g{first + i}" for i in range(groups)]
    ledger.begin_step(step, [Draw(position=first + i, group=n, task="t") for i, n in enumerate(names)], version=step)
    for name in names:
        pause()
        played = [trace(f"{tag}{name}/{i}", group=name, version=step) for i in range(2)]
        store.add(played, label="train", step=step, group=group_of(name, *played))
    pause()
    if commit:
        last = {names[-1]: "no variance"}
        ledger.commit_step(step, step + 1, trained=names[:-1], dropped=last, checkpoint=f"c{step}" * checkpoint or None)
    pause()


def test_a_clean_run_and_a_rewound_one(tmp_path):
    with TraceStore(tmp_path / "t.db") as store:
        for step in (1, 2, 3):
            step_of(store, step, checkpoint=step != 3)
        step_of(store, 4, commit=False)
        assert store.ledger.check() == []
        assert store.ledger.last_step().step == 3 and store.ledger.last_step(checkpointed=True).checkpoint == "c2"
    with TraceStore(tmp_path / "t.db") as store:
        store.ledger.rewind(2)
        assert (store.ledger.last_step().step, store.ledger.position()) == (2, 4)
        assert len(list(store.traces())) == 8 and len(list(store.traces(abandoned=True))) == 16
        for step in (3, 4):
            step_of(store, step, tag="again ")
        assert store.ledger.check() == []
        assert [step.version for step in store.ledger.steps()] == [2, 3, 4, 5]
        assert {t.id[:6] for t in store.traces(step=4)} == {"again "}
        store.ledger.rewind(0)
        assert store.ledger.steps() == [] and list(store.traces()) == []
        with pytest.raises(StoreError, match="step 3"):
            store.ledger.rewind(3)


def test_fingerprints_travel_with_versions(tmp_path):
    path = tmp_path / "t.db"
    with TraceStore(path) as store:
        for step, fingerprints in ((1, ("a", "b")), (2, ("b", "c")), (3, ("x", "d")), (4, None)):
            store.ledger.begin_step(step, [], version=step)
            store.ledger.commit_step(step, step + 1, trained=[], checkpoint=f"c{step}", fingerprints=fingerprints)
        assert [(step.began, step.made) for step in store.ledger.steps()][1:] == [("b", "c"), ("x", "d"), ("", "")]
        assert store.ledger.check() == ["step 3 trained weights x, but step 2 had made c"]
        store.ledger.rewind(2)
        assert store.ledger.check() == []
    with sqlite3.connect(path) as connection:  # a file of the time before there were any
        connection.executescript("DROP TABLE weights; DROP TABLE artifacts; PRAGMA user_version = 1;")
    for readonly in (True, False, True):
        with TraceStore(path, readonly=readonly) as store:
            assert [step.made for step in store.ledger.steps()] == ["", ""]
            if not readonly:
                store.ledger.begin_step(3, [], version=3)
                store.ledger.commit_step(3, 4, trained=[], fingerprints=("c", "e"))
                store.ledger.rewind(2)


def test_a_step_that_names_a_checkpoint_outlives_a_power_cut(tmp_path):
    """What prunes the checkpoint before it relies on that: SQLite must have written it out (synchronous 2, FULL)."""
    with TraceStore(tmp_path / "traces.db") as store:
        for checkpoint in (True, False, True):
            step_of(store, len(store.ledger.steps()) + 1, checkpoint=checkpoint)
            assert store._database.all("PRAGMA synchronous") == [(2 if checkpoint else 1,)]


def test_what_contradicts_the_ledger_is_refused_or_found(tmp_path):
    def check(name, *actions):
        with TraceStore(tmp_path / f"{name}.db") as store:
            step_of(store, 1)
            for action in actions:
                action(store)
            return store.ledger.check()

    def begin(*draws, step=2, version=2, staleness=0):
        return lambda store: store.ledger.begin_step(
            step, [Draw(position=p, group=g, task="t") for p, g in draws], version=version, staleness=staleness
        )

    def commit(*trained, step=2, version=3, **dropped):
        return lambda store: store.ledger.commit_step(step, version, trained=trained, dropped=dropped)

    def emit(name, version=2):
        played = trace(name, group=name, version=version)
        return lambda store: store.add([played], label="train", step=2, group=group_of(name, played))

    assert check("fine", begin((2, "a")), emit("a"), commit("a")) == []
    assert check("skipped", begin((3, "a")), emit("a"), commit("a")) == ["prompt 2 was skipped"]
    assert check("twice drawn", begin((1, "a")), emit("a"), commit("a")) == [
        "prompt 1 was drawn 2 times",
        "prompt 1 was trained or dropped 2 times",
    ]
    assert check("twice trained", begin((2, "a")), emit("a"), commit("a", "g0")) == [
        "group g0 was settled 2 times",
        "prompt 0 was trained or dropped 2 times",
        "group g0 has tokens of version 1, more than 0 older than 2",
    ]
    assert check("unsettled", begin((2, "a"), (3, "b")), emit("a"), commit("a")) == [
        "group b was drawn in step 2 and neither trained nor dropped since"
    ]
    assert check("never drawn", begin(), emit("a"), commit("a")) == ["group a was trained in step 2, but never drawn"]
    assert check("never emitted", begin((2, "a")), commit("a")) == ["group a was trained in step 2, but never emitted"]
    assert "tokens of version 1, more than 0" in check("stale", begin((2, "a")), emit("a", 1), commit("a"))[0]
    assert check("allowed", begin((2, "a"), staleness=1), emit("a", 1), commit("a")) == []
    assert "trained it into version 2" in check("future", begin((2, "a")), emit("a", 7), commit("a"))[0]
    assert "the step before it made 2" in check("base", begin((2, "a"), version=5), commit(version=6, a="x"))[0]
    assert "versions must grow" in check("same", begin((2, "a")), commit(version=2, a="x"))[0]
    for name, actions, message in [
        ("gap", [begin(step=3)], "comes 2"),
        ("uncommitted", [begin(), begin()], "contradicts"),
        ("not begun", [commit()], "not begun"),
        ("committed", [begin(), commit(), commit()], "committed already"),
    ]:
        with pytest.raises(StoreError, match=message):
            check(name, *actions)


def run_until_killed(path, seed):
    """Goes on from wherever the store says, and dies at a random moment like a process that is killed."""
    rng = random.Random(seed)
    left = rng.randrange(1, 30)

    def pause():
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    store = TraceStore(path)
    last = store.ledger.last_step(checkpointed=True)
    store.ledger.rewind(last.step if last else 0)
    for step in range((last.step if last else 0) + 1, 100):
        step_of(store, step, checkpoint=step % 2 == 0, tag=f"{seed} ", pause=pause)


def test_killed_and_resumed(tmp_path):
    path = tmp_path / "t.db"
    for seed in range(8):
        run = multiprocessing.get_context("forkserver").Process(target=run_until_killed, args=(path, seed))
        run.start()
        run.join()
        assert run.exitcode == -signal.SIGKILL
        with TraceStore(path, readonly=True) as store:
            assert store.ledger.check() == []
    with TraceStore(path) as store:
        last = store.ledger.last_step(checkpointed=True)
        assert last.step >= 4
        store.ledger.rewind(last.step)
        assert store.ledger.check() == [] and store.ledger.position() == 2 * last.step
        assert len(list(store.traces())) == 4 * last.step


def test_replaced_figures_are_not_shared(tmp_path):
    """Tasks that differ only in what their hash leaves out are kept apart."""
    one = trace("a")
    other = replace(one, id="b", task=replace(one.task, limits=Limits(max_turns=3)))
    with TraceStore(tmp_path / "t.db") as store:
        store.add([one, other])
        assert [t.task.limits.max_turns for t in store.traces()] == [16, 3]


def test_what_a_step_gives_up_is_drawn_again_before_its_commit_says_so(tmp_path):
    with TraceStore(tmp_path / "t.db") as store:
        ledger = store.ledger
        for group in ("g0", "g1"):
            store.add([played := trace(group, group=group)], label="train", step=1, group=group_of(group, played))
        ledger.begin_step(1, [Draw(position=n, group=f"g{n}", task="t") for n in (0, 1)], version=1, staleness=1)
        ledger.commit_step(1, 2, trained=["g0"])
        ledger.begin_step(2, version=2, staleness=1)
        ledger.draw(2, [Draw(position=1, group="g1.1", task="t")])
        assert ledger.check() == []  # killed here, or looked at meanwhile
        ledger.draw(2, [Draw(position=0, group="g0.1", task="t")])
        assert ledger.check() == ["prompt 0 was drawn 2 times"]  # it was trained
        ledger.commit_step(2, 3, trained=[], dropped={"g1.1": "x", "g0.1": GIVEN_UP})
        assert "prompt 1 was drawn 2 times" in ledger.check()  # nobody gave g1 up


def test_lengths_of_what_was_taken_and_of_all_that_was_sampled(tmp_path):
    """A group that was given up counts with what it had; what a machine failed at, and what is open, does not."""

    def said(id, tokens, group, **given):
        made = trace(id, group=group, **given)
        node = {field: getattr(made.nodes[0], field)[:tokens] for field in _BY_TOKEN}
        return replace(made, nodes=(replace(made.nodes[0], **node),))

    with TraceStore(tmp_path / "t.db") as store:
        first = (said("a", 1, "g0"), said("b", 3, "g0"), said("c", 5, "g0", by="sandbox"))
        store.add([said("c0", 4, "g0", by="tool"), *first], label="train", step=1, group=group_of("g0", *first))
        slow = said("d", 4, "g1", by="cancelled"), said("e", 2, "g1"), said("f", 5, "g1", by="engine")
        store.add(slow, label="train", step=1)
        store.add([said("g", 5, "g2")], label="train", step=1, group=group_of("g2", said("g", 5, "g2")))
        store.add([said("h", 5, "g0")], label="eval", step=1)
        ledger = store.ledger
        ledger.begin_step(1, [Draw(position=n, group=f"g{n}", task="t") for n in range(4)], version=1, staleness=1)
        store.add([said("i", 2, "g3")], label="train", step=1, group=group_of("g3", said("i", 2, "g3")))
        ledger.commit_step(1, 2, trained=["g3"], dropped={"g0": "no_variance", "g1": GIVEN_UP})
        assert store.lengths() == Lengths(sampled=[1, 2, 2, 3, 4], taken=[1, 2, 3], trained=[2])


def test_prompts_that_were_on_their_way_are_drawn_again(tmp_path):
    """Asynchronous: drawn in one step, trained in a later one, given up, cut off by a kill."""
    with TraceStore(tmp_path / "t.db") as store:
        ledger = store.ledger

        def draw(step, *groups):
            ledger.draw(step, [Draw(position=position, group=group, task="t") for position, group in groups])

        def emit(name, step, version):
            played = trace(f"{name}/{ledger._database.lineage}", group=name, version=version)
            store.add([played], label="train", step=step, group=group_of(name, played))

        ledger.begin_step(1, version=0, staleness=1)
        draw(1, (0, "g0"), (1, "g1"), (2, "g2"))
        emit("g0", 1, 0)
        emit("g2", 1, 0)
        ledger.commit_step(1, 1, trained=["g0"], checkpoint="c1")
        ledger.begin_step(2, version=1, staleness=1)
        assert [(one.position, one.draws) for one in ledger.open()] == [(1, 1), (2, 1)]
        draw(2, (3, "g3"))
        ledger.commit_step(2, 2, trained=["g2"], dropped={"g1": GIVEN_UP}, checkpoint="c2")
        ledger.begin_step(3, version=2, staleness=1)
        assert ledger.check() == []
        with pytest.raises(StoreError, match="cannot draw in step 2"):
            draw(2, (4, "g4"))
        draw(3, (4, "g4"))
        assert ledger.check() == ["prompt 1 was skipped: g1 was given up, and nothing drawn for it"]
        ledger.rewind(2)  # killed here
        assert [(one.position, one.draws) for one in ledger.open()] == [(1, 1), (3, 1)]
        ledger.begin_step(3, version=2, staleness=1)
        draw(3, (1, "g1.1"))
        assert ledger.check() == []
        draw(3, (4, "g4"))
        assert ledger.check() == ["prompt 3 was skipped: g3 was on its way at a kill, and nothing drawn for it"]
        draw(3, (3, "g3.1"))
        emit("g1.1", 3, 1)
        emit("g3.1", 3, 2)
        emit("g4", 3, 1)
        ledger.commit_step(3, 3, trained=["g1.1", "g3.1"], checkpoint="c3")
        assert ledger.check() == []
        one = ledger.standing()
        assert (one.drawn, one.trained, one.open, one.given_up, one.staleness) == (5, 4, 1, 1, 1)
        ledger.begin_step(4, version=3, staleness=1)
        ledger.commit_step(4, 4, trained=["g3"], dropped={"g2": "x"})
        assert ledger.check() == [
            "prompt 3 was drawn 2 times",
            "group g2 was settled 2 times",
            "prompt 2 was trained or dropped 2 times",
            "prompt 3 was trained or dropped 2 times",
            "group g3 was trained in step 4, but never emitted",
            "group g4 was drawn in step 3 and neither trained nor dropped since",
        ]
