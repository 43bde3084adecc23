"""Training on episodes of several agents: demonstrated or sampled, what each of them said is trained, once."""

import askesis
from askesis.loop import RunFolder
from askesis.rollout import TraceStore

SMALL = {
    "model.init.hidden_size": 32,
    "model.init.num_hidden_layers": 2,
    "model.init.num_attention_heads": 2,
    "model.init.num_key_value_heads": 1,
    "model.init.head_dim": 16,
    "model.init.intermediate_size": 64,
    "model.tokenizer.episodes": 40,
    "demonstrations.per_step": 6,
    "run.steps": 4,
    "run.threads": 1,
    "eval.tasks": 2,
    "eval.greedy": False,
    "log.tensorboard": False,
}


def test_a_team_is_shown_and_then_reinforced(tmp_path):
    cold = askesis.train("team_cold_start", display=False, overrides=SMALL | {"run.out": str(tmp_path)})
    losses = [record.trainer["loss"] for record in cold.history]
    assert cold.state == "finished" and losses[-1] < losses[0]
    with TraceStore(RunFolder(cold.folder).traces, readonly=True) as store:
        shown = list(store.traces(label="train"))
        assert not store.ledger.check()
    assert {trace.outcome.reason for trace in shown} == {"submitted"}
    assert {trace.harness for trace in shown} == {"orchestrator@1"}
    assert all(len(trace.branches()) == 1 + len(trace.forks) >= 2 for trace in shown)
    assert {fork.name for trace in shown for fork in trace.forks} == {"north", "south", "east"}
    recipe = {
        "run": {"name": "reinforced", "steps": 1, "threads": 1, "out": str(tmp_path)},
        "model": {"checkpoint": str(cold.folder)},
        "env": {"name": "team", "options": {"levels": [1]}},
        "agent": {"options": {"at_once": 2}},
        "rollout": {
            "tasks_per_step": 2,
            "group_size": 2,
            "context_length": 512,
            "limits": {"max_turns": 4, "max_turn_tokens": 60},
        },
        "eval": {"tasks": 0},
        "log": {"tensorboard": False},
    }
    reinforced = askesis.train(recipe, display=False)
    assert reinforced.state == "finished"
    with TraceStore(RunFolder(reinforced.folder).traces, readonly=True) as store:
        assert {trace.harness.partition("+")[0] for trace in store.traces(label="train")} == {"orchestrator@1"}
        assert not store.ledger.check()
