"""Environments of verifiers before 0.4, one of each kind, of its own classes; the package ships none that is whole."""

import verifiers as vf
from datasets import Dataset


def load_environment(kind="single", broken=False, failing_setup=False, judge=False, rows=40):
    dataset = Dataset.from_list(
        [{"question": f"What is {n} plus {n + 1}?", "answer": str(2 * n + 1), "info": {"n": n}} for n in range(rows)]
    )
    parser = vf.XMLParser(["answer"])

    def exact(parser, completion, answer, **kwargs):
        if broken:
            raise RuntimeError("no luck")
        return float(parser.parse_answer(completion) == answer)

    async def short(completion, **kwargs):
        return float(len(completion[-1].content or "") < 60)

    if judge:
        rubric = vf.JudgeRubric(parser=parser)
    else:
        rubric = vf.Rubric(funcs=[exact, short], weights=[1.0, 0.25], parser=parser)
    common = {"dataset": dataset, "parser": parser, "rubric": rubric, "system_prompt": "Answer in <answer> tags."}
    if kind == "single":
        return vf.SingleTurnEnv(**common)
    if kind == "tools":
        return vf.ToolEnv(tools=[add, fail], max_turns=4, **common)
    if kind == "stateful":
        return Counting(max_turns=5, **common)
    if kind == "group":
        return vf.SingleTurnEnv(**{**common, "rubric": vf.Rubric(funcs=[best], parser=parser)})
    if kind == "reasoning_gym":
        from verifiers.envs.integrations.reasoninggym_env import ReasoningGymEnv

        return ReasoningGymEnv("leg_counting", num_train_examples=30, num_eval_examples=12, seed=3)
    return Guessing(max_turns=6, failing_setup=failing_setup, **common)


async def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: one
        b: the other
    """
    return a + b


def fail(text: str) -> str:
    """Always fails."""
    raise ValueError(f"cannot do {text}")


def best(completions, **kwargs):
    return [float(n == 0) for n in range(len(completions))]


class Guessing(vf.MultiTurnEnv):
    """Says whether a guess is too low or too high, until it is right."""

    async def setup_state(self, state):
        if self.failing_setup:
            raise vf.InfraError("no room")
        state["tries"] = 0
        return state

    async def env_response(self, messages, state, **kwargs):
        state["tries"] += 1
        guess = self.parser.parse_answer(messages) or "0"
        if guess == "boom":
            raise vf.ToolError("boom")
        if guess == state["answer"]:
            state["final_env_response"] = [{"role": "user", "content": "Right."}]
            return state["final_env_response"]
        return [{"role": "user", "content": "too low" if int(guess) < int(state["answer"]) else "too high"}]


class Counting(vf.StatefulToolEnv):
    """A tool with an argument that the model is not shown."""

    def __init__(self, **kwargs):
        super().__init__(tools=[], **kwargs)
        self.add_tool(self.bump, args_to_skip=["counts"])

    async def setup_state(self, state):
        state["counts"] = []
        return state

    def update_tool_args(self, tool_name, tool_args, messages, state, **kwargs):
        return {**tool_args, "counts": state["counts"]}

    async def bump(self, by: int, counts: list) -> str:
        """Count on.

        Args:
            by: how much
            counts: so far
        """
        counts.append(by)
        return f"{sum(counts)} after {len(counts)}"
