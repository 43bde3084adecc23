"""The router: sessions stay, what fails is taken out and comes back, nothing that was heard is said twice."""

import asyncio
import time
from collections import Counter

import numpy as np
import pytest

from askesis.inference import EmbeddedEngine, Router
from askesis.models import ModelConfig, build, fingerprint
from askesis.types import Completion, ConfigError, ContextOverflow, EngineError, EngineGone, Piece, Sampling, ids

ASK = Sampling(max_tokens=3, seed=5)
PROMPT = ids([1, 2, 3])


class Double:
    """An engine that says its own number three times; `fault` is asked before each request and each update."""

    context_length = 100

    def __init__(self, number, fault=None):
        self.number, self.fault, self.version = number, fault, 0
        self.asked, self.released, self.closed, self.gate = [], [], False, None

    async def generate(self, token_ids, sampling, *, session=None, on_tokens=None):
        self.asked.append(session)
        if self.gate is not None:
            await self.gate.wait()
        for place in range(3):
            await asyncio.sleep(0)
            if self.fault is not None:
                await self.fault("token", place)
            if on_tokens is not None:
                on_tokens(Piece(**self._arrays(1)))
        return Completion(finish_reason="length", **self._arrays(3))

    def _arrays(self, n):
        return {
            "token_ids": np.full(n, self.number, np.int32),
            "logprobs": np.full(n, -1.0, np.float32),
            "forced": np.zeros(n, np.bool_),
            "policy_versions": np.full(n, self.version, np.int32),
        }

    async def update_weights(self, weights, version, *, fingerprint=""):
        if self.fault is not None:
            await self.fault("update", version)
        self.version = version

    def release(self, session):
        self.released.append(session)

    async def close(self):
        self.closed = True


def failing(kind, *, at=None, error=EngineError, times=10**6):
    left = [times]

    async def fault(what, which):
        if what == kind and at in (None, which) and left[0]:
            left[0] -= 1
            raise error(f"{what} {which} failed")

    return fault


async def hanging(what, which):
    if what == "token":
        await asyncio.Event().wait()


async def who(router, session=None, **more):
    return int((await router.generate(PROMPT, ASK, session=session, **more)).token_ids[0])


async def until(true):
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


async def test_sessions_stay_and_new_ones_go_where_there_is_least_to_do():
    engines = [Double(n) for n in range(3)]
    router = Router(engines)
    homes = {name: await who(router, name) for name in "abcdef"}
    assert Counter(homes.values()) == {0: 2, 1: 2, 2: 2}
    for name, home in homes.items():
        assert await who(router, name) == await who(router, f"{name}/agent0") == home
    router.release("a")
    assert engines[homes["a"]].released == ["a/agent0", "a"]
    assert await who(router, "g") == homes["a"]  # which has the least to do now
    gate = asyncio.Event()
    for engine in engines:
        engine.gate = gate
    busy = [asyncio.create_task(who(router)) for _ in range(9)]
    await asyncio.sleep(0.01)
    assert [one.flying for one in router.replicas] == [3, 3, 3]
    gate.set()
    assert Counter(await asyncio.gather(*busy)) == {0: 3, 1: 3, 2: 3}
    await router.close()
    assert all(engine.closed for engine in engines)


async def test_a_request_that_fails_is_made_again_and_who_failed_comes_back_when_it_is_well():
    bad = Double(0, failing("token", times=2))
    router = Router([bad, Double(1)], back_s=0.02)
    assert await who(router, "a") == 1  # it was to be the first one's
    assert router.replicas[0].why_out == "token 0 failed"
    assert await who(router, "b") == 1
    await until(lambda: not router.replicas[0].why_out)  # after a probe that failed, and one that did not
    assert await who(router, "c") == 0
    await router.close()


async def test_a_request_that_nobody_can_serve_takes_nobody_out():
    router = Router([Double(0, failing("token")), Double(1, failing("token")), Double(2)])
    with pytest.raises(EngineError, match="engine-0: token 0 failed; engine-1: token 0 failed"):
        await who(router)
    assert not any(one.why_out for one in router.replicas)
    too_long = Router([Double(0, failing("token", error=ContextOverflow)), Double(1)])
    with pytest.raises(ContextOverflow):
        await who(too_long)
    alone = Router([Double(0, failing("token", times=1))])
    with pytest.raises(EngineError, match="token 0 failed"):
        await who(alone)
    assert await who(alone) == 0
    for one in (router, too_long, alone):
        await one.close()


@pytest.mark.parametrize("place", [0, 2])
async def test_what_was_heard_is_not_said_twice(place):
    """Before the first token a request is made again; after it, it fails typed."""
    heard = []
    router = Router([Double(0, failing("token", at=place, error=EngineGone)), Double(1)])
    if place:
        with pytest.raises(EngineError, match="2 of its tokens were heard already"):
            await who(router, on_tokens=lambda piece: heard.extend(piece.token_ids.tolist()))
        assert heard == [0, 0]
    else:
        assert await who(router, on_tokens=lambda piece: heard.extend(piece.token_ids.tolist())) == 1
        assert heard == [1, 1, 1]
    await router.close()


async def test_an_engine_that_hangs_is_given_up_and_its_requests_are_made_again():
    router = Router([Double(0, hanging), Double(1)], silent_s=0.2)
    answers = await asyncio.gather(*(who(router, f"s{n}") for n in range(6)))
    assert answers == [1] * 6
    assert "was silent for" in router.replicas[0].why_out
    await router.close()


async def test_a_process_that_stood_still_itself_blames_no_engine():
    slow = Double(0)
    slow.gate = asyncio.Event()
    router = Router([slow, Double(1)], silent_s=0.2)
    asking = asyncio.create_task(who(router, "a"))
    await asyncio.sleep(0.01)
    slow.gate.set()
    blocked()
    assert await asking == 0
    assert not any(one.why_out for one in router.replicas)
    await router.close()


def blocked():
    time.sleep(0.5)


class Pinged(Double):
    """An engine elsewhere: it says nothing of a long turn, but answers when it is asked whether it lives."""

    deaf = False

    def __init__(self, number, fault=None):
        super().__init__(number, fault)
        self.revived = 0

    async def generate(self, token_ids, sampling, *, session=None, on_tokens=None):
        assert on_tokens is None  # nobody listens, so nothing is sent
        return await super().generate(token_ids, sampling, session=session)

    async def ping(self):
        if self.deaf:
            await asyncio.Event().wait()

    def revive(self):
        self.revived, self.deaf, self.fault = self.revived + 1, False, None


async def test_a_long_turn_is_no_silence_of_an_engine_that_answers_and_an_idle_one_that_does_not_is_given_up():
    busy, deaf = Pinged(0), Pinged(1)
    router = Router([busy, deaf], silent_s=0.2, back_s=0.02)
    busy.gate, deaf.deaf = asyncio.Event(), True
    turn = asyncio.create_task(who(router, "a"))
    await until(lambda: deaf.revived)
    await asyncio.sleep(0.4)
    assert not turn.done() and busy.revived == 0 and not router.replicas[0].why_out
    busy.gate.set()
    assert await turn == 0
    await until(lambda: not router.replicas[1].why_out)
    await router.close()


async def test_an_engine_that_hangs_in_an_update_is_started_again_and_ends_no_update_of_the_others():
    async def hangs(what, which):
        if what == "update":
            await asyncio.Event().wait()

    hung = Pinged(0, hangs)
    router = Router([hung, Double(1)], update_s=0.1, back_s=0.02)
    await asyncio.wait_for(router.update_weights({}, 4), 1.0)
    assert hung.revived == 1 and "did not take weights version 4" in router.replicas[0].why_out
    await until(lambda: not router.replicas[0].why_out)
    assert hung.version == 4
    await router.close()


class Starting(Double):
    """An engine that takes time to start, and is gone until it has."""

    def __init__(self, number):
        super().__init__(number)
        self.begin, self.started, self.updates = asyncio.Event(), 0, []

    async def start(self):
        await self.begin.wait()
        self.started += 1
        self.fault = None

    async def update_weights(self, weights, version, *, fingerprint=""):
        self.updates.append(version)
        await super().update_weights(weights, version, fingerprint=fingerprint)


async def test_no_update_waits_for_an_engine_that_is_being_started_and_it_gets_the_last_one():
    slow, other = Starting(0), Double(1)
    router = Router([slow, other], update_s=0.2, back_s=0.02)
    slow.begin.set()
    await router.start()
    await router.update_weights({}, 1)
    slow.begin.clear()
    slow.fault = failing("token", error=EngineGone)
    assert await who(router, "a") == 1  # made again
    await asyncio.sleep(0.05)  # it is being started
    for version in (2, 3):
        await asyncio.wait_for(router.update_weights({}, version), 0.1)
    assert slow.updates == [1]
    slow.begin.set()
    await until(lambda: not router.replicas[0].why_out)
    assert (slow.started, slow.updates, slow.version) == (2, [1, 3], 3)
    await router.close()


async def test_weights_that_come_while_all_are_being_started_are_everyone_s_before_they_sample():
    slow, other = Starting(0), Starting(1)
    router = Router([slow, other], patience_s=0.05)
    start = asyncio.create_task(router.start())
    await asyncio.sleep(0.01)
    with pytest.raises(EngineError, match="engine-0: it is being started"):
        await who(router)
    update = asyncio.create_task(router.update_weights({}, 4))
    await asyncio.sleep(0.01)
    assert not update.done()  # nobody has them yet
    other.begin.set()
    await asyncio.wait_for(update, 1.0)
    assert (slow.updates, other.updates, await who(router)) == ([], [4], 1)
    slow.begin.set()
    await start
    assert slow.updates == [4] and [one.version for one in router.replicas] == [4, 4]
    assert [one.why_out for one in router.replicas] == ["", ""]
    await router.close()


async def test_an_engine_that_hangs_after_an_update_is_given_up_with_requests_from_before():
    stuck = Double(0)
    stuck.gate = asyncio.Event()
    router = Router([stuck], silent_s=0.2, patience_s=0.1)
    flying = asyncio.create_task(who(router))
    await asyncio.sleep(0.01)
    await router.update_weights({}, 1)
    with pytest.raises(EngineError, match="no engine takes requests"):
        await asyncio.wait_for(flying, 5.0)
    await router.close()


async def test_engines_that_do_not_start_are_out_until_they_do_and_none_is_an_error():
    class Refusing(Starting):
        async def start(self):
            if not self.begin.is_set():
                raise ConfigError("no such python")

    late = Refusing(0)
    router = Router([late, Double(1)], back_s=0.02)
    await router.start()
    await router.update_weights({}, 5)
    assert "no such python" in router.replicas[0].why_out
    assert await who(router, "a") == 1
    late.begin.set()
    await until(lambda: not router.replicas[0].why_out)
    assert late.version == 5
    await router.close()
    nobody = Router([Refusing(0), Refusing(1)])
    with pytest.raises(ConfigError, match="no such python"):
        await nobody.start()
    await nobody.close()
    hangs = Router([Starting(0)], start_s=0.05)
    with pytest.raises(EngineError, match=r"no engine has started; engine-0: no answer within 0.05 s"):
        await hangs.start()
    await hangs.close()


async def test_engines_die_over_a_request_thrice_at_most_and_one_that_is_back_is_not_blamed_again():
    poison = [Double(n, failing("token", error=EngineGone)) for n in range(5)]
    router = Router(poison, back_s=60.0)
    with pytest.raises(EngineError, match=r"engine-0: .*engine-1: .*engine-2: "):
        await who(router)
    assert [bool(one.why_out) for one in router.replicas] == [True, True, True, False, False]
    await router.close()
    alone = Router([Double(0, failing("token", error=EngineGone, times=1))], back_s=0.02)
    assert await who(alone) == 0
    assert not alone.replicas[0].why_out
    await alone.close()


async def test_what_an_episode_has_left_at_an_engine_is_released_there_branches_first():
    first, second = Double(0, failing("token", times=0)), Double(1)
    router = Router([first, second], back_s=60.0)
    for name in ("a", "a/1", "a/agent0"):
        assert await who(router, name) == 0
    first.fault = failing("token", error=EngineGone)
    assert await who(router, "a/1") == 1  # and so do the others from now on
    assert first.released == ["a/agent0", "a/1", "a"]
    router.release("a")
    assert second.released == ["a/1", "a"]
    router.release("a/1")
    assert second.released == ["a/1", "a"]
    await router.close()


async def test_a_listener_s_own_failure_is_its_own():
    class Enough(Exception):
        pass

    def listen(piece):
        raise Enough

    router = Router([Double(0), Double(1)])
    with pytest.raises(Enough):
        await who(router, on_tokens=listen)
    assert not any(one.why_out or one.failures for one in router.replicas)
    await router.close()


async def test_an_engine_without_the_weights_is_out_until_it_has_them():
    bad = Double(0, failing("update", at=7, times=2))
    router = Router([bad, Double(1)], back_s=0.02)
    await router.update_weights({}, 7)
    assert [one.version for one in router.replicas] == [-1, 7]
    assert {await who(router, name) for name in "abc"} == {1}
    await until(lambda: not router.replicas[0].why_out)
    assert bad.version == 7
    with pytest.raises(EngineError, match="no engine took weights version 8"):
        await Router([Double(0, failing("update"))]).update_weights({}, 8)
    await router.close()


async def test_engines_come_and_go_while_it_runs():
    router = Router(patience_s=0.05)
    with pytest.raises(EngineError, match="it has no engine"):
        _ = router.context_length
    with pytest.raises(EngineError, match="no engine takes requests"):
        await who(router)
    await router.update_weights({"a": 1}, 3)
    first, late = Double(0), Double(1)
    assert await router.add(first, "first") == "first"
    assert first.version == 3  # it was given what it missed
    await router.add(Double(9, failing("update", error=RuntimeError)), "broken")
    assert "update 3 failed" in router.replicas[1].why_out
    await router.remove("broken")
    homes = {name: await who(router, name) for name in "abcd"}
    await router.add(late)
    first.gate = asyncio.Event()
    flying = [asyncio.create_task(who(router, name)) for name in "abcd"]
    await asyncio.sleep(0.01)
    await router.remove("first", drain_s=0.01)
    assert await asyncio.gather(*flying) == [1] * 4  # made again where they can be
    assert set(homes.values()) == {0}
    assert first.closed
    with pytest.raises(ConfigError, match="no engine 'first'"):
        await router.remove("first")
    await router.close()
    with pytest.raises(EngineError, match="no engine"):
        await who(router)


async def test_real_engines_behind_it_say_what_one_alone_says_while_one_of_them_fails(monkeypatch):
    config = ModelConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    models = [build(config) for _ in range(3)]
    for seed, model in enumerate(models):
        model.initialise(seed, 0.1)
    alone, *engines = [EmbeddedEngine(model, slots=4, context_length=64) for model in models]
    weights, meant = models[0].state_dict(), fingerprint(models[0])
    router = Router(engines, back_s=0.02)
    await router.update_weights(weights, 1, fingerprint=meant)

    async def speak(engine, session):
        said = PROMPT
        for turn in range(3):
            sampling = Sampling(max_tokens=6, seed=100 * session + turn)
            completion = await engine.generate(said, sampling, session=str(session))
            said = np.concatenate([said, completion.token_ids])
            if engine is router and (session, turn) == (3, 0):
                engines[0]._fail(EngineError("the machine has failed"))
                monkeypatch.setattr(engines[0], "_advance", lambda: 1 / 0)
        return said.tolist()

    expected = await asyncio.gather(*(speak(alone, n) for n in range(8)))
    assert await asyncio.gather(*(speak(router, n) for n in range(8))) == expected
    assert router.replicas[0].why_out
    monkeypatch.undo()
    await until(lambda: not router.replicas[0].why_out)
    await asyncio.gather(router.close(), alone.close())
