"""The trainer as a group of processes: what one process learns, over any number of them."""

import contextlib
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_doubles import sample, small_mixture, small_model

from askesis.models import save_checkpoint
from askesis.train import POLICY_LOSSES, Optimisers, Trainer, door, link, worker
from askesis.train.door import place
from askesis.train.processes import TrainerProcesses, TrainerSpec
from askesis.types import AskesisError, CheckpointError, ConfigError, StallError

DAPO = functools.partial(POLICY_LOSSES["dapo"], low=0.2, high=0.28, kl=0.1)
MADE = {
    "adamw": {"kind": "adamw", "lr": 1e-2, "muon_lr": 1e-2, "weight_decay": 0.1},
    "muon": {"kind": "muon", "lr": 1e-2, "muon_lr": 1e-2, "weight_decay": 0.1},
}
SETTINGS = {"batch_tokens": 150, "minibatches": 2, "grad_clip": 0.5}


def samples(seed, count=12):
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, 61, 15)
    made = [sample(rng, int(rng.integers(20, 90)), trace=str(i), group=str(i // 3)) for i in range(count)]
    for one in made:
        one.token_ids[: len(prompt)] = prompt
    return made


def alone(model, optimisers, **changes):
    made = Optimisers(model, **optimisers)
    return Trainer(model, loss=DAPO, optimisers=made, backend="torch", **(SETTINGS | changes))


def check_steps(one, many, *, first, count):
    for seed in range(first, first + count):
        want, got = one.step(samples(seed), progress=0.1), many.step(samples(seed), progress=0.1)
        assert got == pytest.approx(want, rel=1e-4, abs=1e-4)


def check_weights(model, many):
    twin = small_mixture(9) if "Moe" in type(model).__name__ else small_model(9)
    many.refresh(twin)
    for got, want in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def spec(folder, model, optimisers, **changes):
    save_checkpoint(model, folder / "model")
    trainer = SETTINGS | changes
    teacher = trainer.pop("teacher", None)
    if teacher is not None:
        save_checkpoint(teacher, folder / "teacher")
    return TrainerSpec(
        checkpoint=folder / "model",
        teacher=None if teacher is None else folder / "teacher",
        loss=DAPO,
        optimisers=optimisers,
        trainer=trainer,
    )


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_group_of_one_is_a_trainer(tmp_path, monkeypatch):
    """In this process: sharding, clipping, gathering and the state's form, without a second process to wait for."""
    from askesis.train.distributed import ShardedTrainer, full_weights, join, load_sharded

    with pytest.raises(AskesisError, match="start it with torchrun"):
        join()
    port = free_port()
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    model = small_model(1)
    save_checkpoint(model, tmp_path / "model")
    one = alone(model, MADE["muon"])
    group = join()
    try:
        sharded = load_sharded(tmp_path / "model", group)
        settings = SETTINGS | {"loss": DAPO}
        many = ShardedTrainer(sharded, group=group, optimisers=Optimisers(sharded, **MADE["muon"]), **settings)
        check_steps(one, many, first=0, count=1)
        many.save(tmp_path / "state")
        one.load(tmp_path / "state")
        one.save(tmp_path / "state")
        many.load(tmp_path / "state")
        check_steps(one, many, first=2, count=1)
        for (name, got), (same, want) in zip(full_weights(sharded, group), model.named_parameters(), strict=True):
            torch.testing.assert_close(got, want.detach(), atol=1e-5, rtol=1e-4)
            assert name == same
    finally:
        group.leave()


@pytest.mark.parametrize("rank", [0, 1])
def test_state_is_gathered_a_tensor_at_a_time(rank, monkeypatch):
    """Who does not write holds none of it when the next is gathered."""
    from askesis.train import distributed

    living, most = weakref.WeakSet(), []

    def whole(tensor):
        most.append(len(living))
        made = tensor.new_zeros(1000)
        living.add(made)
        return made

    monkeypatch.setattr(distributed.shards, "whole", whole)
    state = {"optimisers": [{"state": {n: {"momentum": torch.zeros(10)} for n in range(20)}}], "steps": 3}
    kept = distributed._mapped(state, functools.partial(distributed._kept, group=SimpleNamespace(rank=rank)))
    sizes = {len(one["momentum"]) for one in kept["optimisers"][0]["state"].values()}
    assert (len(most), sizes, kept["steps"]) == (20, {1000 if rank == 0 else 0}, 3)
    if rank:
        assert max(most) == 0


def test_two_processes_make_the_step_of_one(tmp_path):
    """Started by hand, as by whatever places processes; torchrun and more steps are for `make test-full`."""
    address, master = (str(free_port()) for _ in range(2))
    model = small_model(1)
    made, one = spec(tmp_path, model, MADE["muon"]), alone(model, MADE["muon"])
    with TrainerProcesses(made, address=f"127.0.0.1:{address}") as many:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": master, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "askesis.train.worker"],
                env=os.environ | many.environment | shared | {"RANK": rank, "LOCAL_RANK": "0"},
            )
            for rank in ("0", "1")
        ]
        many.wait()
        check_steps(one, many, first=0, count=1)
        check_weights(model, many)
    assert [process.wait(30) for process in started] == [0, 0]


@pytest.mark.full
@pytest.mark.parametrize("kind", [*MADE, "mixture"])
def test_two_processes_learn_what_one_does_and_three_go_on(kind, tmp_path):
    model = small_mixture(1) if kind == "mixture" else small_model(1)
    optimisers = MADE.get(kind, MADE["adamw"])
    changes = {"router_aux": 0.1, "recompute": True} if kind == "mixture" else {"teacher": small_model(5)}
    one = alone(model, optimisers, **changes)
    with TrainerProcesses(spec(tmp_path, model, optimisers, **changes), count=2) as many:
        check_steps(one, many, first=0, count=5)
        check_weights(model, many)
        for got, want in zip(many.logprobs(samples(7)), one.logprobs(samples(7)), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-3)
        many.save(tmp_path / "state")
        with pytest.raises(CheckpointError, match="cannot take over"):
            many.load(tmp_path / "nothing")
        with pytest.raises(CheckpointError, match="those of another model"):
            many.refresh(small_model(1, intermediate_size=40))
        many.refresh(model)
    one.load(tmp_path / "state")  # by a single process
    with TrainerProcesses(spec(tmp_path, model, optimisers, **changes), count=3) as many:  # and by more
        many.load(tmp_path / "state")
        check_steps(one, many, first=5, count=3)
        check_weights(model, many)


def ranks(many):
    """Process ids of a group that was started here, by rank."""
    found = subprocess.run(["pgrep", "-P", str(many._group.pid)], capture_output=True, text=True, check=True)
    pids = [int(pid) for pid in found.stdout.split()]
    told = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in pids}
    return sorted(pids, key=lambda pid: [entry for entry in told[pid] if entry.startswith(b"RANK=")])


def gone(pids):
    """Whether they end soon."""
    until = time.monotonic() + 30
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > until:
            return left
        time.sleep(0.1)
    return True


@pytest.mark.full
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_in_a_step_ends_the_group_with_its_last_words(rank, tmp_path):
    with TrainerProcesses(spec(tmp_path, small_model(1), MADE["adamw"]), count=2, log=tmp_path / "log") as many:
        many.step(samples(0))
        pids = ranks(many)
        os.kill(pids[rank], signal.SIGSTOP)  # so that the step cannot be over before
        threading.Timer(2.0, os.kill, (pids[rank], signal.SIGKILL)).start()
        with pytest.raises(AskesisError, match=r"(?s)ended at 'step'; its last words.*SIGKILL"):
            many.step(samples(1))
        with pytest.raises(AskesisError, match="has ended"):
            many.step(samples(0))
        assert gone(pids) is True


@pytest.mark.full
@pytest.mark.parametrize(
    ("rank", "why"), [(0, r"after no sign of life for 6 s"), (1, r"(?s)ended at 'step'; its last words.*[Tt]imed out")]
)
def test_a_process_that_hangs_is_not_waited_for_for_ever(rank, why, tmp_path):
    made = spec(tmp_path, small_model(1), MADE["adamw"])
    with TrainerProcesses(made, count=2, log=tmp_path / "log", silent_s=6.0 if rank == 0 else 60.0, wait_s=9.0) as many:
        many.step(samples(0))
        time.sleep(10)  # between orders there is all the time of the world
        many.step(samples(1))
        pids = ranks(many)
        os.kill(pids[rank], signal.SIGSTOP)
        with pytest.raises(AskesisError, match=why):
            many.step(samples(2))
        assert gone(pids) is True


@pytest.mark.full
def test_a_group_whose_run_is_gone_ends(tmp_path):
    """However it went: its end of the connection is closed by the system."""
    code = """
import os, sys
from pathlib import Path
sys.path.insert(0, "tests/train")
from test_distributed import *
many = TrainerProcesses(spec(Path(sys.argv[1]), small_model(1), MADE["adamw"]), count=2)
print(*ranks(many), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL
    assert gone([int(pid) for pid in died.stdout.split()]) is True


@pytest.mark.full
def test_a_group_that_cannot_begin_says_why(tmp_path):
    made = spec(tmp_path, small_model(1), MADE["adamw"])
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(AskesisError, match=r"weights file model\.safetensors is missing"):
        TrainerProcesses(made, count=2)
    with pytest.raises(AskesisError, match="no group of trainers came"):
        TrainerProcesses(made, address="127.0.0.1:0", timeout_s=0.3).wait()


def knock(address, key):
    with contextlib.suppress(OSError, EOFError, AuthenticationError):
        if key:
            Client(place(address), authkey=key)
        else:
            socket.create_connection(place(address)).close()


@pytest.mark.full
def test_others_may_start_the_group(tmp_path):
    """torchrun by hand, as on several nodes."""
    address = f"127.0.0.1:{free_port()}"
    model = small_model(1)
    one = alone(model, MADE["adamw"])
    with TrainerProcesses(spec(tmp_path, model, MADE["adamw"]), address=address) as many:
        for key in (b"", b"wrong"):  # somebody looks who is there, and somebody guesses, before they come
            threading.Timer(0.5, knock, (address, key)).start()
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        started = subprocess.Popen([*torchrun, "-m", "askesis.train.worker"], env=os.environ | many.environment)
        many.wait()
        check_steps(one, many, first=0, count=2)
    assert started.wait(30) == 0


class Stand:
    """In place of a group: its first process, over a real connection, in a thread. answers: to each order, in turn."""

    def __init__(self, many, answers):
        self.orders, self._many, self._answers = [], many, answers
        self._thread = threading.Thread(target=self._obey, daemon=True)
        self._thread.start()

    def _obey(self):
        environment = self._many.environment
        key = bytes.fromhex(environment["ASKESIS_TRAINER_KEY"])
        called = Client(place(environment["ASKESIS_TRAINER"]), authkey=key)
        with called as connection, contextlib.suppress(EOFError, OSError):
            for answer in self._answers:
                self.orders.append(pickle.loads(connection.recv_bytes())[0])
                if answer is not None:
                    connection.send_bytes(pickle.dumps(answer))
            connection.recv_bytes()

    def gone(self):
        self._thread.join(20)
        return not self._thread.is_alive()


def waits(tmp_path, **more):
    address = f"127.0.0.1:{free_port()}"
    return TrainerProcesses(spec(tmp_path, small_model(1), MADE["adamw"]), address=address, **more)


def test_an_order_that_is_cut_short_ends_the_group(tmp_path):
    """Else its answer, which comes yet, would be taken for the next order's."""
    stalls = []

    def lost():
        if stalls:
            raise StallError("stalled")
        return False

    with waits(tmp_path, lost=lost) as many:
        stand = Stand(many, [(None, 3), None])
        many.wait()
        assert many.size == 3
        stalls.append(True)
        with pytest.raises(StallError):
            many.step(samples(0))
        assert stand.gone()
        with pytest.raises(AskesisError, match="has ended"):
            many.step(samples(0))
        assert stand.orders == ["build", "step"]


def test_weights_that_do_not_come_are_an_error_and_the_next_order_gets_its_own_answer(tmp_path):
    model = small_model(1)
    there = {name: (tuple(one.shape), one.dtype) for name, one in model.named_parameters()}
    with waits(tmp_path) as many:
        Stand(many, [(None, 1), (None, there), ("CheckpointError: no such weight", None), (None, {"loss": 2.0})])
        many.wait()
        with pytest.raises(CheckpointError, match="no such weight"):
            many.refresh(model)
        assert many.step(samples(0)) == {"loss": 2.0}


def test_whoever_knocks_and_says_nothing_keeps_nobody_out(tmp_path):
    with waits(tmp_path, timeout_s=8.0) as many, contextlib.ExitStack() as silent:
        where = place(many.environment["ASKESIS_TRAINER"])
        for _ in range(3):
            silent.enter_context(socket.create_connection(where))
        garbage = silent.enter_context(socket.create_connection(where))
        garbage.sendall(b"\0\0\0\5hello")
        Stand(many, [(None, 1)])
        many.wait()
        assert many.size == 1


def test_a_door_that_fails_for_good_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "_LOOK_S", 0.01)
    with waits(tmp_path) as many:
        many._door._socket.shutdown(socket.SHUT_RDWR)  # accept fails from now on
        with pytest.raises(AskesisError, match="nobody can come to 127"):
            many.wait()


def test_an_address_where_nobody_can_listen_is_refused(tmp_path):
    made = spec(tmp_path, small_model(1), MADE["adamw"])
    with waits(tmp_path) as many:
        for taken in (many.environment["ASKESIS_TRAINER"], "127.0.0.1:70000", "192.0.2.1:9", "no.such.host.invalid:9"):
            with pytest.raises(ConfigError, match=r"cannot wait for its trainers at .*Expected HOST:PORT"):
                TrainerProcesses(made, address=taken)


def test_a_sign_of_life_that_fails_is_told_by_the_next_message(monkeypatch):
    """It may have been cut in the middle: nothing may follow it."""
    monkeypatch.setattr(link, "_BEAT_S", 0.01)
    here, there = Pipe()
    with there, contextlib.closing(link.Link(here, silent_s=5.0)) as one:
        sent = threading.Event()

        def cut(data):
            sent.set()
            raise BlockingIOError("cut")

        monkeypatch.setattr(one, "_connection", SimpleNamespace(send_bytes=cut, close=here.close))
        with one.alive():
            assert sent.wait(10)
        monkeypatch.setattr(one, "_connection", here)
        with pytest.raises(BlockingIOError, match="cut"):
            one.send("an answer")
        assert not there.poll(0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ASKESIS_TRAINER_KEY": "no hex"}, "pairs of hexadecimal digits"),
        ({"ASKESIS_TRAINER_WAIT_S": "10 minutes"}, "expected a number of seconds"),
    ],
)
def test_a_trainer_that_is_told_nonsense_says_what_to_do(wrong, said, monkeypatch):
    for name, value in ({"ASKESIS_TRAINER": "here:1", "ASKESIS_TRAINER_KEY": "ab" * 32} | wrong).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=said):
        worker.main()


def test_a_trainer_calls_until_its_wait_is_over(monkeypatch):
    """Whatever keeps it from the run, except for what time does not mend."""
    said = [TimeoutError(), OSError(113, "no route"), socket.gaierror("who?"), AuthenticationError("digest")]
    monkeypatch.setattr(worker, "Client", lambda *_, **__: (_ for _ in ()).throw(said.pop(0)))
    monkeypatch.setattr(worker.time, "sleep", lambda _: None)
    with pytest.raises(SystemExit, match="has another key"):
        worker._called("10.0.0.1:1", b"key", 100.0)
    assert not said
    for error, why in ((EOFError(), "is no run"), (TimeoutError("slow"), r"nobody gives orders at .*\(slow\)")):
        said.append(error)
        with pytest.raises(SystemExit, match=why):
            worker._called("10.0.0.1:1", b"key", 0.0)
