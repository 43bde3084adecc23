"""A taskset of verifiers whose environment drives the conversation itself."""

import verifiers.v1 as vf


class Talks(vf.Taskset[vf.Task, vf.TasksetConfig]):
    def load(self):
        return [vf.Task(vf.TaskData(prompt="Hello."))]


class Talking(vf.SingleAgentEnv):
    async def run(self, task, agents):
        async with agents.agent.interaction(task) as interaction:
            await interaction.turn("hello")


__all__ = ["Talking", "Talks"]
