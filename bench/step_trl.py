"""A process of `bench step`: TRL's GRPOTrainer, in its own environment (`make venv-trl`).

`.venv-trl/bin/python -m bench.step_trl WORKLOAD CHECKPOINT THREADS FOLDER OPTIONS`. OPTIONS: JSON; `config` goes to
`GRPOConfig`, `model` to its `model_init_kwargs`. Tools act on the environment that we train in, in the same sandbox.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import add_response_schema
from trl.trainer import grpo_trainer

from askesis.chat import load_renderer
from askesis.envs import load_env
from askesis.types import Outcome, Task, user
from bench import step_workload as work

TASKS = 1000
_LOOP = asyncio.new_event_loop()


def wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of something that happens in the environment's event loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, _LOOP).result()


class Repair:
    """`repair` as TRL wants an environment: its methods are the tools. Made once for each episode of a batch."""

    env: Any = None
    known: dict[str, Task]

    def __init__(self) -> None:
        self._state: Any = None
        self._tools: dict[str, Any] = {}
        self._task: Task | None = None

    def reset(self, *, task: str, **row: Any) -> None:
        self._task = self.known[task]
        self._state = wait(self.env.setup(self._task))
        self._tools = {tool.spec.name: tool for tool in self.env.tools(self._task, self._state)}

    def _call(self, name: str, **arguments: Any) -> str:
        return str(wait(self._tools[name](arguments, None)).text)

    def run_tests(self) -> str:
        """Run the tests."""
        return self._call("run_tests")

    def view(self) -> str:
        """Show the file."""
        return self._call("view")

    def replace(self, line: int, text: str) -> str:
        """Replace one line.

        Args:
            line: Its number.
            text: What it becomes.
        """
        return self._call("replace", line=line, text=text)

    def submit(self) -> str:
        """Submit the file."""
        return self._call("submit")


async def _verify(environment: Repair, submitted: bool) -> float:
    outcome = Outcome(by="policy", reason="submitted" if submitted else "no_call")
    seen: Any = SimpleNamespace(task=environment._task, outcome=outcome)
    terms = await environment.env.verify(seen, environment._state)
    return float(sum(term.value * term.weight for term in terms))


def repaired(completions: list[Any], environments: list[Repair], **_: Any) -> list[float]:
    """The reward of every episode; all are verified at once."""

    async def verified() -> list[float]:
        ends = [bool(messages[-1].get("submitted")) for messages in completions]
        return await asyncio.gather(*map(_verify, environments, ends))

    turns = [sum(message["role"] == "assistant" for message in messages) for messages in completions]
    cost = work.WORK["agentic"].turn_cost
    return [reward - cost * count for reward, count in zip(wait(verified()), turns, strict=True)]


def even(completions: list[Any], **_: Any) -> list[float]:
    """The reward of the workload without tools."""
    return [work.evenness(messages[-1]["content"] or "") for messages in completions]


def _end_at_submission() -> None:
    """TRL samples a further turn after every tool call, and no tool can end an episode. Spare it that turn: a call of
    `submit` is no call, but the episode's end."""
    original = grpo_trainer.parse_response

    def parse(*given: Any, **named: Any) -> dict[str, Any]:
        message: dict[str, Any] = original(*given, **named)
        calls = message.get("tool_calls") or []
        if any(call.get("function", {}).get("name") == "submit" for call in calls):
            del message["tool_calls"]
            message["submitted"] = True
        return message

    grpo_trainer.parse_response = parse


def _speak_as_trained(tokenizer: Any, checkpoint: str, task: Task, env: Any) -> None:
    """Give TRL the official template, which it knows by its text, but with the schemas that the model was trained with
    instead of those that TRL writes from signatures: every episode begins with the same tokens as ours."""
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (folder / "qwen3.jinja").read_text(encoding="utf-8")
    add_response_schema(tokenizer)
    state = wait(env.setup(task))
    specs = [tool.spec for tool in env.tools(task, state)]
    wait(state.close())
    schemas = json.dumps([json.dumps(spec.as_json(), ensure_ascii=False) for spec in specs])
    template = (folder / "qwen3_training.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template.replace("tool | tojson", f"({schemas})[loop.index0]")
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": task.prompt}],
        tools=[{} for _ in specs],
        add_generation_prompt=True,
        return_dict=False,
    )
    ours = load_renderer(Path(checkpoint)).render([user(task.prompt)], tools=specs)
    if list(theirs) != ours.tolist():
        raise SystemExit(f"TRL would begin an episode with other tokens: {tokenizer.decode(theirs)}")


class Counting(GRPOTrainer):
    """Remembers how much the last step sampled and trained on."""

    figures: dict[str, Any]

    def _generate(self, prompts: list[Any]) -> Any:
        begun = time.perf_counter()
        out = super()._generate(prompts)
        prompt_ids, completion_ids, mask, completions = out[:4]
        self.figures = {
            "sample_s": time.perf_counter() - begun,
            "episodes": len(completions),
            "turns": sum(sum(m["role"] == "assistant" for m in c) for c in completions) / len(completions),
            "sampled_tokens": sum(map(sum, mask)) if mask is not None else sum(map(len, completion_ids)),
            "trained_tokens": sum(map(len, prompt_ids)) + sum(map(len, completion_ids)),
        }
        return out


class Steps(TrainerCallback):
    """Lets the trainer go on when it is asked to."""

    def __init__(self, gate: work.Gate) -> None:
        self.gate = gate
        self.trainer: Any = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.gate.enter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        reward = self.trainer._metrics["train"]["reward"][-1]
        self.gate.leave({**self.trainer.figures, "reward": reward})


def main() -> None:
    """Until stdin ends."""
    gate = work.Gate(time.time())
    name, checkpoint, threads, folder, options = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    given, chosen = work.WORK[name], json.loads(options)
    threading.Thread(target=_LOOP.run_forever, daemon=True).start()
    env = load_env(given.env)
    tasks = env.tasks("train", limit=TASKS)
    rows = [{"prompt": [{"role": "user", "content": task.prompt}], "task": task.id} for task in tasks]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    agentic = given.turns > 1
    if agentic:
        Repair.env, Repair.known = env, {task.id: task for task in tasks}
        _end_at_submission()
        _speak_as_trained(tokenizer, checkpoint, tasks[0], env)
    config = {
        "output_dir": folder,
        "max_steps": 1_000_000,
        "per_device_train_batch_size": given.episodes,
        "num_generations": given.group,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_completion_length": work.CONTEXT - 200 if agentic else given.turn_tokens,
        "generation_kwargs": {"max_new_tokens": given.turn_tokens},
        "max_tool_calling_iterations": given.turns - 1,
        "chat_template_kwargs": {"enable_thinking": given.thinking},
        "learning_rate": work.RATE,
        "lr_scheduler_type": "constant",
        "epsilon": work.CLIP[0],
        "epsilon_high": work.CLIP[1],
        "beta": 0.0,
        "loss_type": "dapo",
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    trainer = Counting(
        model=checkpoint,
        reward_funcs=repaired if agentic else even,
        environment_factory=Repair if agentic else None,
        args=GRPOConfig(**config | chosen.get("config", {}), model_init_kwargs=chosen.get("model", {})),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[steps := Steps(gate)],
    )
    steps.trainer = trainer
    with suppress(EOFError):
        trainer.train()


if __name__ == "__main__":
    main()
