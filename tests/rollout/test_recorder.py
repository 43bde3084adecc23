"""The record of a session that resends its history: nothing sampled is lost, changed or written a second time."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_doubles import OFF, ON, RENDERER, call, says

from askesis.rollout import Ask, HostClosed, Recorder, TraceStore
from askesis.types import (
    Completion,
    ContextOverflow,
    Message,
    Piece,
    PrefixChanged,
    Reasoning,
    Sampling,
    TemplateError,
    ToolSpec,
    assistant,
    ids,
    system,
    tool_result,
    user,
)
from bench.schedule_machine import in_virtual_time

TOOL = ToolSpec(name="add", description="Add.", parameters={"type": "object", "properties": {}})
SAMPLING = Sampling(temperature=1.0)


class Engine:
    """Says what `script(number)` gives (a message or tokens), four tokens a tick, and remembers all of it."""

    def __init__(self, script, *, context_length=4000):
        self.script, self.context_length = script, context_length
        self.heard: list[tuple[list[int], list[int]]] = []  # (prompt, what was told of the completion)
        self.voices: list[str] = []
        self.released: list[str] = []

    async def generate(self, token_ids, sampling, *, session=None, on_tokens=None):
        said = self.script(len(self.heard))
        thinking = ON if token_ids.tolist()[-1] == RENDERER.tokenizer.encode("\n")[0] else OFF
        tokens = RENDERER.render_completion(said, thinking=thinking) if isinstance(said, Message) else ids(said)
        told: list[int] = []
        self.heard.append((token_ids.tolist(), told))
        self.voices.append(session)
        whole = tokens[: sampling.max_tokens]
        for start in range(0, len(whole), 4):
            await asyncio.sleep(1)
            part = whole[start : start + 4]
            told += part.tolist()
            on_tokens(
                Piece(
                    token_ids=part,
                    logprobs=-np.ones(len(part), np.float32),
                    forced=np.zeros(len(part), bool),
                    policy_versions=np.zeros(len(part), np.int32),
                )
            )
        return Completion(
            token_ids=whole,
            logprobs=-np.ones(len(whole), np.float32),
            forced=np.zeros(len(whole), bool),
            finish_reason="stop" if whole[-1] in sampling.stop else "length",
            policy_versions=np.zeros(len(whole), np.int32),
        )

    def release(self, session):
        self.released.append(session)


def make(script, renderer=RENDERER, **options):
    engine = Engine(script, **options)
    loop = asyncio.get_running_loop()
    return Recorder("mine", engine=engine, renderer=renderer, clock=loop.time), engine


async def turn(recorder, messages, *, thinking=ON, tools=(), listener=None, **sampling):
    opened = recorder.open(
        Ask(messages=messages, tools=tools, thinking=thinking, sampling=replace(SAMPLING, **sampling))
    )
    return opened, await opened.speak(listener)


def check(recorder, engine):
    """What must be true of any session: the traces hold what the engine heard and said, each turn once."""
    traces = recorder.seal()
    got = []
    for trace in traces:
        assert trace.group == "mine" and trace.outcome.reason != "invariant"
        for index, node in enumerate(trace.nodes):
            if not node.sampled:
                continue
            path, at = [], node.parent
            while at >= 0:
                path.append(trace.nodes[at])
                at = trace.nodes[at].parent
            context = [t for one in reversed(path) for t in one.token_ids.tolist()]
            got.append((context, node.token_ids.tolist()))
            assert node.parent < index
        masked = sum(int(mask.sum()) for _, mask, _, _ in trace.sequences())
        assert masked == sum(len(node.token_ids) for node in trace.nodes if node.sampled)
    assert sorted(got) == sorted((prompt, told) for prompt, told in engine.heard if told)
    return traces


def test_a_resent_history_is_extended_in_all_the_ways_in_which_clients_resend_it():
    """The recorded tokens stand as they are, with reasoning that the client has dropped and JSON that it respelt."""

    async def main():
        first = says("On it.", call("add", b=1, a="é"), reasoning="I should add.")
        recorder, engine = make(lambda n: first if n == 0 else says(f"done {n}", reasoning="fine"))
        begun = [system("S"), user("add")]
        _, answer = await turn(recorder, begun, tools=[TOOL])
        respelt = replace(answer.message.tool_calls[0], id="other", arguments={"a": "é", "b": 1}, raw="")
        resent = [
            answer.message,
            assistant("On it.\n", tool_calls=answer.message.tool_calls),
            assistant(" On it.", tool_calls=(respelt,)),
        ]
        record = engine.heard[0][0] + engine.heard[0][1]
        for said in resent:
            opened, _ = await turn(recorder, [*begun, said, tool_result("31")], tools=[TOOL])
            assert opened.continuity == "extended"
            assert opened.recorded_tokens == len(record)
            assert engine.heard[-1][0][: len(record)] == record
        (trace,) = check(recorder, engine)
        assert len(trace.branches()) == 3
        assert [node.sampled for node in trace.nodes].count(False) == 3  # the tool's result is on record once
        assert {len(path) for path in trace.branches()} == {5}

    in_virtual_time(main)


@pytest.mark.parametrize(
    "edited",
    [
        assistant("Else."),
        assistant("On it.", reasoning="I thought otherwise."),
        assistant("On it.", tool_calls=(call("add", a=1),)),
    ],
)
def test_an_edited_answer_is_a_branch_from_the_deepest_common_node(edited):
    async def main():
        recorder, engine = make(lambda n: says("On it.", reasoning="So."))
        _, _ = await turn(recorder, [user("a")])
        opened, _ = await turn(recorder, [user("a"), edited, user("b")])
        assert opened.continuity == "branched"
        assert engine.heard[1][0][: len(engine.heard[0][0])] == engine.heard[0][0]  # the question is shared
        again, _ = await turn(recorder, [user("a"), edited, user("b"), assistant("On it."), user("c")])
        assert again.continuity == "extended"
        (trace,) = check(recorder, engine)
        assert [[trace.nodes[i].message.role for i in path] for path in trace.branches()] == [
            ["user", "assistant"],
            ["user", "assistant", "user", "assistant", "user", "assistant"],
        ]
        foreign = trace.nodes[2]
        assert not foreign.sampled and not foreign.mask.any() and len(foreign.token_ids)

    in_virtual_time(main)


def test_other_tools_or_another_system_text_begin_a_new_root():
    async def main():
        recorder, engine = make(lambda n: says("yes"))
        answer = assistant("yes")
        await turn(recorder, [system("S"), user("a")], tools=[TOOL])
        for messages, tools in (
            ([system("S"), user("a"), answer, user("b")], []),
            ([system("T"), user("a"), answer, user("b")], [TOOL]),
        ):
            opened, _ = await turn(recorder, messages, tools=tools)
            assert (opened.continuity, opened.recorded_tokens) == ("new", 0)
            assert engine.heard[-1][0] == RENDERER.render(messages, tools=tools, thinking=ON).tolist()
        assert len(check(recorder, engine)) == 3

    in_virtual_time(main)


def test_both_modes_of_one_question_and_a_mode_that_changes_on_the_way():
    async def main():
        recorder, engine = make(lambda n: says(f"yes {n}"))
        await asyncio.gather(turn(recorder, [user("a")]), turn(recorder, [user("a")], thinking=OFF))
        opened, _ = await turn(recorder, [user("a"), assistant("yes 1"), user("b")], thinking=ON)
        assert opened.continuity == "extended"
        assert engine.heard[2][0][: len(engine.heard[1][0])] == engine.heard[1][0]
        check(recorder, engine)

    in_virtual_time(main)


def test_nothing_sampled_is_lost_when_a_turn_is_cancelled():
    async def main():
        recorder, engine = make(lambda n: says("a rather long answer, of many tokens"))
        work = asyncio.create_task(turn(recorder, [user("a")]))
        await asyncio.sleep(2.5)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert len(engine.heard[0][1]) == 8
        (trace,) = check(recorder, engine)
        assert (trace.nodes[-1].finish_reason, trace.outcome.by) == ("cancelled", "cancelled")
        assert not trace.outcome.learnable

    in_virtual_time(main)


def test_a_listener_ends_a_turn_and_what_it_told_is_what_will_be_resent():
    class Stops:
        count = 0

        def hear(self, piece):
            self.count += len(piece.token_ids)
            return 2 if self.count >= 8 else None

        def told(self):
            return assistant("cut")

    async def main():
        recorder, engine = make(lambda n: says("a rather long answer, of many tokens"))
        _, answer = await turn(recorder, [user("a")], listener=Stops())
        assert (answer.finish, len(answer.completion.token_ids)) == ("halted", 6)
        engine.heard[0][1][6:] = []  # what came after was nobody's
        opened, _ = await turn(recorder, [user("a"), assistant("cut"), user("b")])
        assert opened.continuity == "extended"
        check(recorder, engine)

    in_virtual_time(main)


def test_a_template_that_changes_what_was_sampled_gives_a_branch_from_the_root():
    class Rewrites:
        def __getattr__(self, name):
            return getattr(RENDERER, name)

        def extend(self, *args, **options):
            raise PrefixChanged("the template rewrites it")

    async def main():
        recorder, engine = make(lambda n: says("yes", reasoning="so"), renderer=Rewrites())
        await turn(recorder, [user("a")])
        opened, _ = await turn(recorder, [user("a"), assistant("yes"), user("b")])
        assert opened.continuity == "branched"
        history = [user("a"), assistant("yes", reasoning="so"), user("b")]  # with what the client had dropped
        assert engine.heard[1][0] == RENDERER.render(history, thinking=ON).tolist()
        check(recorder, engine)

    in_virtual_time(main)


def test_what_cannot_be_answered_is_said_before_anything_is_sampled():
    async def main():
        recorder, engine = make(lambda n: says("yes"), context_length=20)
        with pytest.raises(ContextOverflow, match="the model takes 20"):
            recorder.open(Ask(messages=[user("a" * 99)]))
        with pytest.raises(TemplateError, match="nothing to answer"):
            recorder.open(Ask(messages=[user("a"), assistant("b")]))
        recorder.close()
        with pytest.raises(HostClosed):
            recorder.open(Ask(messages=[user("a")]))
        assert recorder.conversations == 0 and not engine.heard

    in_virtual_time(main)


def test_idle_and_crowded_conversations_become_traces_and_go_on_as_new_ones(tmp_path):
    async def main():
        recorder, engine = make(lambda n: says("yes"))
        for text in ("a", "b", "c"):
            await turn(recorder, [user(text)])
            await asyncio.sleep(10)
        assert [trace.task.prompt for trace in recorder.seal(idle_s=25)] == ["a"]
        assert [trace.task.prompt for trace in recorder.seal(idle_s=99, most_tokens=recorder.tokens - 1)] == ["b"]
        opened = recorder.open(Ask(messages=[user("c"), assistant("yes"), user("d")]))
        kept = recorder.seal()  # between opening and speaking
        await opened.speak()
        with TraceStore(tmp_path / "traces.db") as store:
            store.add([*kept, *recorder.seal()], label="serve")
            stored = list(store.traces(group="mine"))
        assert [len(trace.nodes) for trace in stored] == [2, 4]
        assert set(engine.released) == set(engine.voices)

    in_virtual_time(main)


def test_a_conversation_keeps_its_place_in_the_engines_cache():
    async def main():
        recorder, engine = make(lambda n: says(f"yes {n}"))
        await turn(recorder, [user("a")])
        await turn(recorder, [user("a"), assistant("yes 0"), user("b")])
        await turn(recorder, [user("a"), assistant("yes 0"), user("c")])  # goes on from the same turn
        assert engine.voices[0] == engine.voices[1] != engine.voices[2]

    in_virtual_time(main)


def test_traces_tell_temperatures_apart(tmp_path):
    async def main():
        recorder, _ = make(lambda n: says("yes"))
        await turn(recorder, [user("a")], temperature=1.0)
        await turn(recorder, [user("a"), assistant("yes"), user("b")], temperature=0.5)
        with TraceStore(tmp_path / "traces.db") as store:
            store.add(recorder.seal(), label="serve")
            return next(iter(store.traces()))

    trace = in_virtual_time(main)
    assert trace.temperatures == [0.5, 1.0]
    assert [int(trace.sequences(temperature=t)[0][1].sum()) for t in trace.temperatures] == [
        len(trace.nodes[i].token_ids) for i in (3, 1)
    ]


# -- any client ----------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", "yes", "no, 30", "add 12", "x\n"])
SAID = st.one_of(
    st.builds(says, TEXTS, reasoning=st.sampled_from(["", "Let me think.", "so"])),
    st.builds(lambda text, a: says(text, call("add", a=a, b=[1, None])), TEXTS, st.integers(0, 2)),
    st.lists(st.integers(0, RENDERER.tokenizer.vocab_size - 1), min_size=1, max_size=9).filter(
        lambda tokens: not set(RENDERER.stop_ids) & set(tokens[:-1])  # any tokens at all, until one that ends the turn
    ),
)
STEP = st.fixed_dictionaries(
    {
        "from": st.integers(0, 9),  # which of the earlier conversations goes on
        "how": st.sampled_from(["go on", "go on", "again", "edit answer", "edit question", "cancel", "twice"]),
        "drop": st.booleans(),
        "thinking": st.sampled_from([ON, OFF]),
        "text": TEXTS,
    }
)


def resent(message, drop):
    """An assistant's message as a client sends it back."""
    calls = tuple(replace(c, raw="", arguments=json.loads(json.dumps(c.arguments))) for c in message.tool_calls)
    parts = tuple(part for part in message.parts if not (drop and isinstance(part, Reasoning)))
    return Message(role="assistant", parts=parts, tool_calls=calls)


@settings(max_examples=60)
@given(said=st.lists(SAID, min_size=1, max_size=12), steps=st.lists(STEP, min_size=1, max_size=8))
def test_any_client_is_recorded_to_the_token(said, steps):
    async def main():
        recorder, engine = make(lambda n: said[n % len(said)])
        conversations = [[user("begin")]]
        for step in steps:
            messages = list(conversations[step["from"] % len(conversations)])
            answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
            if step["how"] == "edit answer" and answers:
                messages[answers[0]] = assistant("edited " + step["text"])
            elif step["how"] == "edit question":
                messages[0] = user("edited " + step["text"])
            if step["how"] == "cancel":
                work = asyncio.create_task(turn(recorder, messages, thinking=step["thinking"]))
                await asyncio.sleep(1.5)
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                continue
            turns = [turn(recorder, messages, thinking=step["thinking"]) for _ in range(1 + (step["how"] == "twice"))]
            for opened, answer in await asyncio.gather(*turns):
                if answers and step["how"] != "edit answer" and step["how"] != "edit question":
                    assert opened.continuity == "extended"
                following = user(step["text"])
                if answer.message.tool_calls:
                    following = tool_result(step["text"], tool_call_id=answer.message.tool_calls[0].id)
                conversations.append([*messages, resent(answer.message, step["drop"]), following])
        check(recorder, engine)

    in_virtual_time(main)
