"""vLLM in this process' own environment, as a recipe asks for it: run in what `make venv-vllm` makes.

Trains two steps and prints the largest gap between sampler and trainer, and the versions that sampled.
"""

import json
import sys

from askesis import train
from askesis.loop import RunFolder
from askesis.rollout import TraceStore

OVERRIDES = ["run.steps=2", "run.threads=1", "rollout.engine=vllm", "rollout.vllm.cache_gib=0.25", "eval.tasks=0"]
OVERRIDES += ["rollout.tasks_per_step=2", "rollout.group_size=4", "log.tensorboard=false"]


def main(out):
    result = train("repair", overrides=[*OVERRIDES, f'run.out="{out}"'])
    with TraceStore(RunFolder(result.folder).traces, readonly=True) as store:
        traces = list(store.traces(label="train"))
    versions = {int(v) for trace in traces for node in trace.nodes if node.sampled for v in node.policy_versions}
    gaps = [record.trainer["logprob_gap"] for record in result.history if "logprob_gap" in record.trainer]
    broken = sum(record.infrastructure for record in result.history)
    print(json.dumps({"gaps": gaps, "versions": sorted(versions), "steps": result.steps, "broken": broken}))


if __name__ == "__main__":  # vLLM starts its child afresh
    main(sys.argv[1])
