"""The pool: a few warm workers, and any number of sandboxes that take turns at them.

A sandbox between two calls is its tree, kept here as data. A call takes a worker, puts the tree into a file system
that nothing else ever sees, runs one program, and takes the tree back. So any number of sandboxes can be open at once;
`size` bounds the programs that run at once, and a call waits for its turn. A sandbox with a terminal open is live: it
keeps a worker of its own, with its tree in it, and its calls run there. `terminals` bounds those.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

from askesis.sandbox import bubblewrap, warden
from askesis.sandbox.door import Channel, opened
from askesis.sandbox.live import Live
from askesis.sandbox.terminal import LiveTerminal, checked_size
from askesis.sandbox.tree import Tree, TreeSnapshot
from askesis.sandbox.worker import Answer, Worker, memory, packed
from askesis.types import (
    NO_VARIABLES,
    ConfigError,
    Door,
    RunLimits,
    RunResult,
    Sandbox,
    SandboxError,
    Snapshot,
    Terminal,
    in_line,
)

MOST_FILES = 4096  # files, folders and symlinks of a tree, unless a pool is told otherwise
LEAST_MEMORY = 64 * 2**20  # bytes of address space: less than that, and an interpreter does not start
PRELOAD = ("collections", "functools", "io", "itertools", "json", "math", "random", "re", "string")
_SYSTEM = "/bin /dev /etc /gnu /home /lib /lib32 /lib64 /libx32 /nix /proc /sbin /sys /tmp /usr /var".split()
_OWN = (warden.TREE, "/home/tmp", "/tmp", "/var/tmp", "/dev", "/proc")  # where no folder of the host can be seen
_INLINE = (2**20, 100)  # bytes and files of a tree; a larger one is packed and read in a thread
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A program to run. code: source, or the number of one that was compiled before. channel: to its door."""

    mode: int
    code: str | int
    argv: Sequence[str]
    stdin: bytes
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    channel: Channel | None = None


class SandboxPool:
    """size: programs that run at once; workers are started when they are first needed. Where the cores have other work
    too, more workers than cores are faster: most of a call is then waiting for its turn. limits: of a run that brings
    none. terminals: sandboxes that are live at once, beside the calls of others (default: `size`); further ones wait in
    line for their first terminal.

    tree, files: bytes, and files, folders and symlinks, that a working tree may hold (default: four times the limit on
    one file, and 4096). preload: modules of the
    standard library that a Python call finds imported; each makes every call a little dearer. programs: sources that
    are run often, compiled once; they must not be an episode's own, since every episode could look at them. mounts:
    folders that all programs can read, under the paths that they have here (a virtual environment, say). links:
    symlinks that all programs see, by their absolute path, and where they lead (`{"/app": "/home/agent"}`): programs
    that name their tree by another path find it there.
    bare: packages that are installed beside an interpreter, and sources below /usr, look empty, `mounts` excepted.
    Use it as an asynchronous context manager, within one event loop. Raises `SandboxError` where bubblewrap is missing
    or may not work, and `ConfigError` for senseless values.
    """

    def __init__(
        self,
        size: int,
        limits: RunLimits,
        *,
        terminals: int | None = None,
        tree: int | None = None,
        files: int = MOST_FILES,
        preload: Sequence[str] = PRELOAD,
        programs: Sequence[str] = (),
        mounts: Sequence[str | Path] = (),
        links: Mapping[str, str] = NO_VARIABLES,
        bare: bool = False,
    ) -> None:
        if size < 1:
            raise ConfigError(f"sandbox: size={size}: expected at least one worker")
        if terminals is not None and terminals < 1:
            raise ConfigError(f"sandbox: terminals={terminals}: expected room for one live sandbox at least")
        _check(limits)
        self._limits = limits
        self._room, self._files = 4 * limits.file_size if tree is None else tree, files
        if self._room < 1 or files < 1:
            raise ConfigError(f"sandbox: tree={self._room}, files={files}: expected room for a file at least")
        self._programs = {source: number for number, source in enumerate(programs)}
        # twice a tree, what a program keeps and as much in /tmp, and a page for the end of each file
        room = 2 * self._room + files * os.sysconf("SC_PAGE_SIZE")
        self._config = {"size": room, "inodes": 2 * files, "preload": [*preload], "programs": [*programs]}
        shown = [_folder(mount) for mount in mounts]
        self._config["mounts"], self._config["bare"] = shown, bare
        self._config["links"] = {_free(link, shown): str(target) for link, target in links.items()}
        self._turns = asyncio.Semaphore(size)  # first come, first served
        self._stays = asyncio.Semaphore(size if terminals is None else terminals)
        self._idle: list[Worker] = []
        self._idle_live: list[Worker] = []  # those for live sandboxes
        self._workers: set[Worker] = set()  # all of them
        self._bwrap = ""
        self._open = False

    async def __aenter__(self) -> Self:
        self._bwrap = bubblewrap.find()
        bubblewrap.end_orphans((warden.BOOT, warden.LIVE_BOOT))
        self._open = True
        try:
            self._idle.append(await self._start())
        except BaseException:
            self._open = False
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def acquire(self, snapshot: Snapshot | None = None) -> Sandbox:
        """A sandbox with an empty tree, or one that begins as `snapshot`. Never waits: only running takes a worker.

        Raises `ConfigError` for a snapshot that is larger than this pool's trees may be.
        """
        if not self._open:
            raise SandboxError("sandbox: the pool is not open: use `async with SandboxPool(...) as pool`")
        if snapshot is None:
            return _Sandbox(self, Tree(room=self._room, most=self._files), self._limits)
        if not isinstance(snapshot, TreeSnapshot):
            raise ConfigError(f"sandbox: a snapshot of another make: {type(snapshot).__name__}; copy it file by file")
        return _Sandbox(self, Tree.opened(snapshot, room=self._room, most=self._files), self._limits)

    async def close(self) -> None:
        """Kill everything; calls in flight get a `SandboxError`. Idempotent."""
        self._open = False
        workers, self._workers = self._workers, set()
        await asyncio.gather(*(worker.kill() for worker in workers))

    async def _start(self, *, live: bool = False) -> Worker:
        worker = await Worker.start(self._bwrap, {**self._config, "live": live})
        self._workers.add(worker)
        if not self._open:
            await self.close()
            raise SandboxError("sandbox: the pool was closed while a worker started")
        return worker

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator[Worker]:
        """A worker, once it is our turn: a warm one if there is any. One that died is replaced."""
        if not self._open:
            raise SandboxError("sandbox: the pool is closed")
        with in_line():
            await self._turns.acquire()
        try:
            with in_line():
                worker = await self._ready()
            try:
                yield worker
            finally:
                self._idle.append(worker)
        finally:
            self._turns.release()

    async def _ready(self, *, live: bool = False) -> Worker:
        """A worker that lives and has nothing to do, whose turn it is."""
        idle = self._idle_live if live else self._idle
        while idle and not idle[-1].alive:
            await self._buried(idle.pop())
        if not self._open:
            raise SandboxError("sandbox: the pool was closed before the call got its turn")
        return idle.pop() if idle else await self._start(live=live)

    async def _buried(self, dead: Worker) -> None:
        self._workers.discard(dead)
        await dead.kill()

    async def _kept(self) -> Worker:
        """A worker for a live sandbox, once it is its turn; `_given_back` after that."""
        if not self._open:
            raise SandboxError("sandbox: the pool is closed")
        with in_line():
            await self._stays.acquire()
            try:
                return await self._ready(live=True)
            except BaseException:
                self._stays.release()
                raise

    async def _given_back(self, worker: Worker) -> None:
        """A live sandbox's worker, in which nothing lives any more, or which is dead."""
        try:
            if worker.alive:
                self._idle_live.append(worker)
            else:
                await self._buried(worker)
        finally:
            self._stays.release()


class _Sandbox:
    """One episode's working tree; see `Sandbox`."""

    def __init__(self, pool: SandboxPool, tree: Tree, limits: RunLimits) -> None:
        self._pool, self._tree, self._limits = pool, tree, limits
        self._turn = asyncio.Lock()  # calls follow each other: each begins in the tree that the last one left
        self._worker: Worker | None = None  # that runs something for us
        self._live: Live | None = None  # while a terminal is open
        self._closed = False
        self._lost: list[str] = []  # what was left last that could not be kept

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        limits: RunLimits | None = None,
        env: Mapping[str, str] = NO_VARIABLES,
        door: Door | None = None,
        stop: asyncio.Event | None = None,
    ) -> RunResult:
        """See `Sandbox.run`."""
        if not argv:
            raise ValueError("sandbox: `run` was given an empty command")
        call = Call(warden.RUN, "", argv, stdin, env)
        if door is None and stop is None:
            return await self._call(call, limits)
        async with opened(door, stop) as channel:
            return await self._call(replace(call, port=door.port if door is not None else 0, channel=channel), limits)

    async def python(
        self, code: str, *, argv: Sequence[str] = (), stdin: bytes = b"", limits: RunLimits | None = None
    ) -> RunResult:
        """See `Sandbox.python`."""
        return await self._call(Call(warden.PYTHON, self._pool._programs.get(code, code), argv, stdin), limits)

    async def terminal(
        self,
        argv: Sequence[str] = ("/bin/bash", "-i"),
        *,
        rows: int = 24,
        columns: int = 80,
        limits: RunLimits | None = None,
        env: Mapping[str, str] = NO_VARIABLES,
    ) -> Terminal:
        """See `Sandbox.terminal`. Raises `OSError` where a sandbox has no more of them to give."""
        if not argv:
            raise ValueError("sandbox: `terminal` was given an empty command")
        checked_size(rows, columns)
        if limits is not None:
            _check(limits)
        bounds = replace(self._limits, wall_s=math.inf) if limits is None else limits
        async with self._turn:
            self._check_open()
            live = await self._alive()
            try:
                self._check_open()
                return await live.terminal(argv, rows, columns, bounds, env, self._left)
            except BaseException:
                await self._settled()
                self._check_open()
                raise

    async def read(self, path: str) -> bytes:
        """See `Sandbox.read`."""
        async with self._turn:
            self._check_open()
            return self._tree.read(path) if self._live is None else self._live.folder.read(path)

    async def write(self, path: str, data: bytes) -> None:
        """See `Sandbox.write`."""
        async with self._turn:
            self._check_open()
            if self._live is None:
                self._tree.write(path, data)
            else:
                self._live.folder.write(path, data)

    async def paths(self) -> Sequence[str]:
        """See `Sandbox.paths`."""
        async with self._turn:
            self._check_open()
            return self._tree.paths() if self._live is None else self._live.folder.paths()

    async def snapshot(self) -> Snapshot:
        """See `Sandbox.snapshot`. Of a live tree: each file as it was when it was read."""
        async with self._turn:
            self._check_open()
            if self._live is not None:
                self._lost = await self._collect(os.dup(self._live.root))
                self._check_open()
            return self._tree.snapshot(self._lost)

    async def close(self) -> None:
        """See `Sandbox.close`. A call in flight gets a `SandboxError`."""
        self._closed = True
        terminals = list(self._live.terminals) if self._live is not None else []
        for terminal in terminals:
            terminal.failed("sandbox: it is closed")
        if self._worker is not None:
            await self._worker.kill()
        if self._live is not None:
            if self._turn.locked():
                await self._live.worker.kill()  # whatever it is at
            async with self._turn:
                await self._settled(force=True)
        await asyncio.gather(*(terminal.close() for terminal in terminals))
        self._tree = Tree(room=0, most=0)

    # -- while it is live --------------------------------------------------------------------------------------------

    async def _alive(self) -> Live:
        """It, with its tree in a worker of its own."""
        if self._live is None:
            worker = await self._pool._kept()
            try:
                self._check_open()
                room, most, tree = self._pool._room, self._pool._files, self._tree
                payload = await _aside(lambda: memory(marshal.dumps(tree.rows())), tree.size, os.close)
                self._live = await Live.begin(worker, payload, room=room, most=most)
            except BaseException:
                await self._pool._given_back(worker)
                raise
        return self._live

    async def _left(self, terminal: LiveTerminal) -> None:
        """A terminal was closed: with the last one, the tree becomes data again."""
        if self._live is not None:
            self._live.terminals.discard(terminal)
            if not self._live.terminals:
                async with self._turn:
                    await self._settled()

    async def _settled(self, *, force: bool = False) -> None:
        """Be live no longer, if no terminal is open: kill what lives, take the tree over, let go of the worker."""
        live = self._live
        if live is None or (live.terminals and live.worker.alive and not force):
            return
        try:
            if live.worker.alive:
                await live.over()
        except SandboxError:
            pass  # it is dead now, and that is all that was wanted
        except BaseException:
            await live.worker.kill()
            raise
        finally:
            self._live = None
            try:
                if not self._closed:
                    self._lost = await self._collect(os.dup(live.root))
            finally:
                live.release()
                await self._pool._given_back(live.worker)

    async def _beside(self, live: Live, call: Call, limits: RunLimits) -> Answer:
        """A call on the live tree. One that is cancelled is stopped, and takes nothing else down."""
        channel = call.channel or Channel(None)
        working = asyncio.create_task(self._answer(live.worker, replace(call, channel=channel), limits))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            channel.stop()
            working.add_done_callback(_forgotten)
            await asyncio.wait([working])
            raise
        finally:
            if call.channel is None:
                await channel.close()

    async def _call(self, call: Call, limits: RunLimits | None) -> RunResult:
        if limits is not None:
            _check(limits)
        lost: list[str] = []
        async with self._turn:
            self._check_open()
            try:
                if self._live is not None:
                    answer = await self._beside(self._live, call, limits or self._limits)
                    os.close(answer.tree)
                else:
                    async with self._pool._worker() as worker:
                        self._check_open()
                        answer = await self._answer(worker, call, limits or self._limits)
                    lost = self._lost = await self._collect(answer.tree)
            except OSError as error:
                raise SandboxError(f"sandbox: a call could not be made: {error}") from error
            self._check_open()
        stderr = answer.stderr.decode("utf-8", "replace")
        if lost:
            stderr += f"\n[sandbox: {len(lost)} paths of the working tree were not kept, the first of them {lost[0]!r}]"
        return RunResult(
            exit_code=answer.exit_code,
            stdout=answer.stdout.decode("utf-8", "replace"),
            stderr=stderr,
            ended=answer.ended,
            truncated=answer.truncated,
            wall_s=answer.wall_s,
        )

    async def _answer(self, worker: Worker, call: Call, limits: RunLimits) -> Answer:
        """Give a worker our tree and a program."""
        rows, size = (self._tree.rows(), self._tree.size) if self._live is None else ([], (0, 0))
        payload = await _aside(lambda: packed(call.code, call.argv, rows, call.env, call.port), size, os.close)
        self._check_open()
        self._worker = worker
        try:
            channel = call.channel.fresh() if call.channel is not None else None
            return await worker.call(call.mode, payload, memory(call.stdin), limits, door=channel)
        except SandboxError:
            self._check_open()  # we killed it ourselves
            raise
        finally:
            self._worker = None

    async def _collect(self, folder: int) -> list[str]:
        """Take over the tree that a run left, and close `folder`; the paths that were not kept."""

        def work() -> tuple[Tree, list[str]]:
            try:
                return tree.collected(folder)
            finally:
                os.close(folder)

        tree, found = self._tree, os.fstatvfs(folder)
        size = (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree
        self._tree, lost = await _aside(work, size)
        return lost

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("sandbox: it is closed")


def _forgotten(done: asyncio.Future[Answer]) -> None:
    """Nobody waits for this answer any more."""
    if not done.cancelled() and done.exception() is None:
        os.close(done.result().tree)


async def _aside(work: Callable[[], T], size: tuple[int, int], undo: Callable[[T], object] = lambda _: None) -> T:
    """What `work` returns. size: bytes and files that it moves: with many, it works in a thread, and we go on.

    A cancellation does not wait for the thread, so `undo` frees what comes of it.
    """
    if size[0] <= _INLINE[0] and size[1] <= _INLINE[1]:
        return work()
    working = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        working.add_done_callback(lambda done: done.exception() or undo(done.result()))
        raise


def _folder(path: str | Path) -> str:
    """A folder that is there, by its whole path, and not where a program's own ones are. Raises `ConfigError`."""
    found = os.path.abspath(path)  # noqa: PTH100 - not resolved: programs name it as we do
    if not os.path.isdir(found):  # noqa: PTH112
        raise ConfigError(f"sandbox: mounts: there is no folder {found}")
    own = next(
        (place for place in _OWN if Path(found).is_relative_to(place) or Path(place).is_relative_to(found)), None
    )
    if own is not None:
        raise ConfigError(f"sandbox: mounts: {found}: programs have a {own} of their own; give a folder outside of it")
    return found


def _free(link: str, mounts: Sequence[str]) -> str:
    """The path of a symlink that is in nobody's way. Raises `ConfigError`."""
    place, taken = Path(link), [*map(Path, _SYSTEM), *map(Path, bubblewrap.folders(mounts))]
    bad = not place.is_absolute() or ".." in place.parts or place == Path("/")
    if bad or any(place.is_relative_to(one) or one.is_relative_to(place) for one in taken):
        raise ConfigError(
            f"sandbox: links: {link!r}: expected an absolute path outside of {', '.join(map(str, taken))}"
        )
    return str(place)


def _check(limits: RunLimits) -> None:
    """Raise `ConfigError` for limits under which nothing can run."""
    for name in ("wall_s", "cpu_s", "processes", "file_size", "output"):
        if getattr(limits, name) <= 0:
            raise ConfigError(f"sandbox: {name}={getattr(limits, name)}: expected a limit above 0")
    if limits.memory < LEAST_MEMORY:
        raise ConfigError(f"sandbox: memory={limits.memory}: an interpreter needs {LEAST_MEMORY} bytes at least")
