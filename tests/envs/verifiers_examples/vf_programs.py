"""A taskset of verifiers whose reward runs a program."""

import verifiers.v1 as vf


class Program(vf.Task[vf.TaskData]):
    async def setup(self, runtime):
        await runtime.write("given.txt", b"7")

    @vf.reward
    async def printed(self, trace, runtime) -> float:
        done = await runtime.run(["cat", "given.txt"], {})
        return float(done.stdout.strip() == trace.last_reply)


class Programs(vf.Taskset[Program, vf.TasksetConfig]):
    def load(self):
        return [Program(vf.TaskData(prompt=f"Which number is it? ({n})")) for n in range(40)]


__all__ = ["Programs"]
