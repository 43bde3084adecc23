"""What a recipe may say: every key with its type, range, default and meaning.

The docstring under a key is its documentation: `docs/recipes.md` is written from here (`askesis.loop.reference`).
Reading files, overrides and error messages are in `askesis.loop.reading`.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

Kind = Literal["rl", "sft"]
FaultKind = Literal["fail", "hang", "slow", "lie"]
Site = Literal[
    "environment", "tool", "sandbox", "verifier", "engine", "weights", "trainer", "store", "checkpoint", "node"
]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


def _demand(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _here(host: str | None) -> bool:
    """Whether a host is by its name this very machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


class Section(BaseModel):
    """A table of a recipe: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Run(Section):
    """How long, how reproducible, and where it goes."""

    name: str = ""
    """What the run's folder is called after; empty: the recipe's file name."""
    kind: Kind = "rl"
    """`rl`: roll out, compare within groups, learn from the difference. `sft`: learn demonstrations."""
    seed: Natural = 0
    """Decides the order of tasks, the sampling and fresh weights."""
    minutes: Rate | None = None
    """Stop after this much training time (sampling and training; not set-up, not evaluation)."""
    steps: Positive | None = None
    """Stop after this many steps."""
    threads: Positive | None = None
    """Threads for torch; unset: the physical cores that this process may use."""
    out: str = "runs"
    """The folder in which each run makes its own."""
    stall_s: Amount = 3600.0
    """Seconds that one call (of the trainer, a write to disk, a tool that does not wait asynchronously) may keep
    everything else waiting before it counts as hanging: an episode is played again, a step or a write ends the run.
    0: no bound. What stands still for five minutes is named in any case."""


class Init(Section):
    """A fresh model. Names are those of a Hugging Face `config.json`; the vocabulary follows from the tokenizer."""

    hidden_size: Positive = 128
    """Width."""
    num_hidden_layers: Positive = 4
    """Layers."""
    num_attention_heads: Positive = 4
    """Query heads."""
    num_key_value_heads: Positive = 2
    """Key and value heads; divides the query heads."""
    head_dim: Positive = 32
    """Width of a head; even."""
    intermediate_size: Positive = 384
    """Width of the feed-forward layer."""
    tie_word_embeddings: bool = True
    """Whether input and output embeddings are one matrix."""
    max_position_embeddings: Positive = 2048
    """How far positions go."""
    rope_theta: Rate = 10_000.0
    """Base of the rotary embedding."""
    std: Rate = 0.02
    """Standard deviation of fresh weights."""


class TokenizerSettings(Section):
    """The BPE of a fresh model, learned from demonstrations."""

    vocab_size: Annotated[int, Field(ge=256)] = 512
    """Bytes and merges; Qwen's special tokens and the scaffolding come on top."""
    episodes: Positive = 500
    """Demonstrations to learn merges from, half of them thinking."""
    scaffolding: bool = True
    """Make one token of each text that stays the same between episodes (the tools' schema, openings of calls)."""
    phrases: Annotated[tuple[str, ...], Strict(False)] = ()
    """Further texts that are one token each."""
    closing: str = "\n</think>\n\n"
    """Text that ends thinking when its budget is used up."""


class Model(Section):
    """What is trained."""

    checkpoint: str = "askesis-tiny"
    """`askesis-tiny`, `askesis-tiny-research`, a Hugging Face folder, or a run: its folder, or `runs/NAME` for the
    newest run of that name."""
    init: Init | None = None
    """Train a fresh model instead of a checkpoint; `sft` only."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """The tokenizer of a fresh model."""


class EnvSettings(Section):
    """Where the agent acts."""

    name: str
    """A built-in name, `path/to/file.py:Class` or `package.module:Class`."""
    options: dict[str, Any] = {}
    """Arguments of the environment."""


class AgentSettings(Section):
    """The harness."""

    name: str = ""
    """Name and version; unset: what the environment wants, which is `solo@1` unless it says otherwise."""
    options: dict[str, Any] = {}
    """Arguments of the agent."""


class Mode(Section):
    """A thinking mode and its share of the tasks."""

    thinking: bool
    """Think or not."""
    share: Rate = 1.0
    """Share of the tasks, in proportion to the other modes'."""
    budget: Natural | None = None
    """Most tokens a turn may think; unset: no bound."""
    budgets: Annotated[tuple[Natural | Literal["none"], ...], Strict(False)] | None = None
    """Several budgets in place of one, as in `[0, 8, 32, "none"]`: the mode's tasks are spread over them evenly."""
    episode_budget: Natural | None = None
    """Most tokens that all turns of an episode may think together; unset: no bound."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> Mode:
        for key in ("budget", "budgets", "episode_budget"):
            value = getattr(self, key)
            shown = list(value) if isinstance(value, tuple) else value
            _demand(self.thinking or value is None, f"{key} = {shown} has no use where thinking = false")
        if self.budgets is not None:
            _demand(self.budget is None, f"budget = {self.budget} and budgets = {list(self.budgets)}: give one of them")
            _demand(self.budgets, "budgets is empty: give at least one, or leave it away")
            twice = len(set(self.budgets)) < len(self.budgets)
            _demand(not twice, f"budgets = {list(self.budgets)} names one twice: use modes with a share each")
        return self


class LimitOverrides(Section):
    """Bounds of an episode; unset ones are the task's own."""

    max_turns: Positive | None = None
    """Assistant messages."""
    max_tokens: Positive | None = None
    """Tokens of all turns together."""
    max_turn_tokens: Positive | None = None
    """Tokens of one turn."""
    wall_s: Rate | None = None
    """Seconds, those in the engine not counted."""
    tool_s: Rate | None = None
    """Seconds of one tool call."""


class Timeouts(Section):
    """Seconds after which a part of an episode counts as failed: infrastructure, and played again."""

    setup_s: Rate = 60.0
    """Setting up an episode."""
    engine_s: Rate = 600.0
    """One turn of the engine, waiting included."""
    verify_s: Rate = 60.0
    """A verdict; an environment that says it takes longer is given that."""
    close_s: Rate = 10.0
    """Closing an episode; what does not end then is left behind."""
    update_s: Rate = 600.0
    """Handing new weights to the engine; tried three times, then the run ends."""


BOTH_MODES = (Mode(thinking=True, share=0.5), Mode(thinking=False, share=0.5))


class VLLM(Section):
    """How vLLM is run, where `rollout.engine` is one of its."""

    python: str = ".venv-vllm/bin/python"
    """Of the environment that has vLLM, in which `vllm-server` starts a server of its own."""
    url: str | Annotated[tuple[str, ...], Strict(False)] = ""
    """A server that runs already, `http://HOST:PORT`, for `vllm-server`, or a list of several, which share the work;
    their key is read from `VLLM_API_KEY`. Empty: start one, and stop it at the end. With `shared_memory` they are on
    this machine (`127.0.0.1`): weights reach no other that way; `cluster.engines` starts vLLMs on others."""
    start_s: Rate = 600.0
    """Seconds until a server that is started must answer."""
    cache_gib: Rate | None = None
    """Memory for keys and values; unset: vLLM's own choice, which is most of the device."""
    tensor_parallel: Positive = 1
    """Devices over which one model is spread."""
    transfer: Literal["shared_memory", "nccl", "ipc"] = "shared_memory"
    """How weights get there: a file in shared memory, checked before it is taken in; or from GPU to GPU, by NCCL or,
    with `vllm` on the same device, by CUDA IPC."""
    address: str = "127.0.0.1"
    """This machine's, as the workers of vLLM reach it, for `nccl`."""
    options: dict[str, Any] = {}
    """Further arguments of vLLM, by its own names."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Of all servers that run already."""
        return tuple(one for one in ((self.url,) if isinstance(self.url, str) else self.url) if one)


class Rollout(Section):
    """How episodes are sampled."""

    tasks_per_step: Positive = 16
    """Tasks drawn for one step: one group each."""
    group_size: Positive = 8
    """Episodes of one task that are compared with each other; `rl` needs at least 2."""
    temperature: Rate = 1.0
    """Of the sampling; log-probabilities are of the distribution scaled by it."""
    modes: Annotated[tuple[Mode, ...], Strict(False), Field(min_length=1)] = BOTH_MODES
    """Thinking modes and their shares. Tasks are spread over them evenly, never within a group."""
    engine: Literal["embedded", "vllm", "vllm-server"] = "embedded"
    """Who samples. `embedded`: Askesis' own engine, in this process; `vllm`: vLLM in this process' environment;
    `vllm-server`: vLLM behind its own server, in an environment of its own."""
    vllm: VLLM = VLLM()
    """How vLLM is run."""
    staleness: Natural = 0
    """Most versions by which the weights may have changed between the first token of a group and the step that trains
    it. 0: rollout and training take turns. From 1 on episodes go on while the trainer computes, the engine has weights
    of its own, and no group is trained that is older."""
    spare: Share = 0.02
    """Where `staleness` is not 0: most of all groups, as a share, that may be given up, and drawn again, for holding
    the trainer back nearly as long as a step takes. 0: every one is waited for."""
    threads: Positive | None = None
    """Threads of the engine where `staleness` is not 0, out of those of the run; unset: half of them. The trainer has
    the others."""
    cache_at_update: Literal["keep", "drop"] = "keep"
    """What becomes of the engine's keys and values when the weights change under episodes in flight. `keep`: they go on
    from them, which costs nothing. `drop`: they are computed again, and every log-probability is exactly that of the
    weights that sampled the token, as with vLLM always."""
    concurrency: Positive = 256
    """Most episodes in flight."""
    slots: Positive = 64
    """Most requests that the engine runs at once."""
    context_length: Annotated[int, Field(ge=2)] = 1024
    """Most tokens of an episode, prompt and all turns."""
    retries: Natural = 2
    """How often an episode is played again that the machinery, not the policy, has spoilt."""
    compile: bool = False
    """Compile the engine's decode step: faster steps, some seconds to start."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the factors of products are rounded to where tokens are sampled. `bfloat16` is the faster on processors that
    multiply it (AVX512-BF16); the sampler's log-probabilities are then some 1e-2 from the trainer's."""
    pool: Positive | None = None
    """Tasks asked of the environment at a time; unset: 16 steps' worth."""
    limits: LimitOverrides = LimitOverrides()
    """Bounds of an episode."""
    timeouts: Timeouts = Timeouts()
    """When the machinery counts as hanging."""


class RewardSettings(Section):
    """What an episode is paid beside the environment's own terms."""

    thinking_cost: Amount = 0.0
    """Cost of one thinking token."""
    turn_cost: Amount = 0.0
    """Cost of one turn."""
    on_success_only: bool = True
    """Charge successes alone, so that failing quickly never pays more than failing slowly."""
    most: Share = 0.9
    """Bound of both costs together; below 1 any success is worth more than any failure."""


class Demonstrations(Section):
    """What `sft` learns: episodes played by the environment's `demonstrator(task, seed=..., **options)`."""

    tokens: Positive | None = None
    """Stop when this many tokens (prompts included) were trained on."""
    episodes: Positive | None = None
    """Distinct demonstrations; unset: always new ones."""
    epochs: Positive = 1
    """Passes over `episodes`."""
    per_step: Positive = 64
    """Demonstrations in one step."""
    modes: Annotated[tuple[Mode, ...], Strict(False), Field(min_length=1)] = BOTH_MODES
    """Thinking modes and their shares."""
    options: dict[str, Any] = {}
    """Arguments of the demonstrator."""
    observations: Amount = 0.0
    """Weight of the tokens that the demonstrator did not say (prompts, tool results); its own have 1. A fresh model
    learns from them to copy and to foresee; a model that can do that already needs none."""
    successes_only: bool = False
    """Leave demonstrations out that did not succeed."""
    keep: Natural = 200
    """How many of them the trace store keeps whole; all are counted."""


class EvalSettings(Section):
    """Held-out tasks."""

    tasks: Natural = 300
    """Tasks in each mode; 0 switches evaluation off."""
    seed: Natural = 1_000_003
    """Which held-out tasks, and how they are sampled."""
    every: Natural = 0
    """Evaluate each so many steps; 0: only before and after."""
    before: bool = True
    """Evaluate before the first step."""
    temperature: Rate = 1.0
    """Of the sampled evaluation."""
    greedy: bool = True
    """Evaluate greedily too, before and after."""


class CheckpointSettings(Section):
    """What survives."""

    every_steps: Positive = 10
    """Steps between two checkpoints; the last step always has one."""
    keep: Positive = 2
    """How many of the newest to keep."""


class AuditSettings(Section):
    """What the verdict on the environment (`askesis audit`) does to the run."""

    file: str = ""
    """An `audit.json` of this environment with these options; empty: none."""
    missing: Literal["go_on", "refuse", "run"] = "go_on"
    """Without one, or with one of other code: go on and say so, refuse, or make one before anything is trained."""
    refuse: Literal["never", "low", "medium", "high"] = "high"
    """Refuse to train where there is a finding as grave as this; `never` goes on with the risk written into the run."""
    weight: Share = 1.0
    """Weight in the loss of the tasks that findings of medium or high severity name; 0 leaves them out."""
    seconds: Rate = 60.0
    """For an audit that is made before training."""


class MonitorSettings(Section):
    """What watches the traces of training for an environment that is being cheated."""

    action: Literal["alarm", "quarantine", "stop"] = "alarm"
    """At a finding: say so, also keep its group out of loss and baseline, or also end the run after that step."""
    severity: Literal["low", "medium", "high"] = "high"
    """From which severity on a finding has that consequence; all are kept in `findings.jsonl`."""
    canaries: Share = 0.0
    """Share of the prompts that are impossible twins of tasks: never trained on, and any pay for one proves a hack."""
    held_out: str = ""
    """A reward term of weight 0 that tells the truth (`true_success`, say): a trace that is paid where it says less
    than 1 is a finding. Empty: none."""
    replays: Share = 0.0
    """Share of the episodes that are played again word for word, without the model, before they teach: a finding where
    success is another than before. It costs the time of their tools."""
    allowed: Annotated[tuple[str, ...], Strict(False)] = ()
    """Kinds of tampering that are the task's own business, as `findings.jsonl` names them."""


class InjectedFault(Section):
    """A fault of the machinery that is put in on purpose."""

    site: Site
    """What goes wrong."""
    kind: FaultKind
    """How."""
    rate: Share = 0.0
    """Probability that a call of the site meets it."""
    at: Annotated[tuple[Positive, ...], Strict(False)] = ()
    """Calls of the site, counted from 1, that meet it in any case."""
    slow_s: Amount = 1.0
    """Mean of a slow call's extra seconds."""
    most: Natural | None = None
    """How often it is put in; unset: no bound."""


class FaultSettings(Section):
    """Faults of the machinery, put in to see what becomes of them: for tests of a set-up, never for training."""

    seed: Natural = 0
    """Decides which calls are hit."""
    inject: Annotated[tuple[InjectedFault, ...], Strict(False)] = ()
    """Faults; empty: none."""


class ClusterSettings(Section):
    """Many machines: where there is an address, episodes are held and tokens sampled in actors of a Ray cluster."""

    address: str = ""
    """Empty: one process. `auto`: the cluster that this machine belongs to; `host:port`; `local`: one of this machine
    alone."""
    envs: Natural = 2
    """Actors that hold episodes, spread over the machines; 0: they stay in this process."""
    env_cpus: Amount = 1.0
    """CPUs of each of them."""
    engines: Natural = 1
    """Engines behind a router, spread over the machines, each of the kind that `rollout.engine` says; 0: the one engine
    stays in this process."""
    engine_cpus: Amount = 1.0
    """CPUs of each of them, and its threads."""
    engine_gpus: Amount = 0.0
    """GPUs of each of them."""
    scratch: str = ""
    """A folder that all machines see: the processes of the trainer (`train.processes`) are then spread over them too,
    and take their first weights from there; `run.out` has to be such a folder too. Empty: they are on this machine."""
    trainer_cpus: Amount = 1.0
    """CPUs of each process of the trainer, and its threads."""
    trainer_gpus: Amount = 0.0
    """GPUs of each."""
    silent_s: Rate = 60.0
    """Seconds without a sign of life after which an actor is given up and started again."""
    patience_s: Rate = 300.0
    """Seconds that an episode or a turn waits while no machine takes it."""


class LogSettings(Section):
    """What is written along the way."""

    tensorboard: bool = True
    """Write TensorBoard files."""
    every: Positive = 5
    """Steps between two plain lines where there is no terminal."""


CorrectionName = Literal["tis", "mis", "icepop", "band", "seq_tis", "seq_mis", "seq_band", "geo_band"]


class CorrectionSettings(Section):
    """What samples weigh that an older policy, or one that rounds differently, has sampled."""

    name: CorrectionName
    """Which; see docs/off-policy.md."""
    low: Share | None = None
    """Ratios of trainer to sampler below this are outside; unset: the usual bound of that name."""
    high: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """Ratios above this are outside; unset: the usual bound of that name."""


class LoraSettings(Section):
    """Adapters: of the weights only a product of two thin matrices is learned. Unset, all weights are."""

    rank: Positive = 16
    """Width of the product."""
    alpha: Rate = 32.0
    """Weight of the product, divided by `rank`."""
    targets: Annotated[tuple[str, ...], Strict(False), Field(min_length=1)] = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    """The layers that get one, by the last part of their names."""


class Train(Section):
    """How the weights change."""

    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "dapo"
    """The policy-gradient loss of `rl`: the mean over episodes, over a constant, or over tokens; `gspo` clips ratios of
    whole episodes; `cispo` clips a weight and keeps every token's gradient. `sft` has its own."""
    advantage: Literal["grpo", "dr_grpo"] = "dr_grpo"
    """Advantages within a group: `grpo` divides by the standard deviation, `dr_grpo` does not."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon`: Muon for the matrices, AdamW for the rest."""
    lr: Rate = 1e-3
    """Learning rate of AdamW."""
    muon_lr: Rate = 0.01
    """Learning rate of Muon."""
    betas: Annotated[tuple[Momentum, Momentum], Strict(False)] = (0.9, 0.95)
    """What AdamW's means of the gradient and of its square keep at each step. Late in reinforcement, when few groups
    differ and gradients are small, a short memory of the square (0.95) makes the next large one a leap: take 0.999."""
    weight_decay: Amount = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate goes on after the warm-up; to 0 at the end of the run."""
    warmup: Share = 0.0
    """Share of the run over which the rate rises from 0."""
    minibatches: Positive = 1
    """Optimiser steps that one step's samples are split into."""
    batch_tokens: Positive = 2048
    """Most tokens in one forward pass (where a sequence is longer, twice the longest); a minibatch of more is
    accumulated. Few stay in a processor's cache; a GPU wants more, and a long prompt that a group shares wants twice
    its own."""
    clip_low: Amount | None = None
    """Probability ratios below 1 minus this are clipped; unset: 0.2, 0.0003 for `gspo`, 1 (no bound) for `cispo`."""
    clip_high: Amount | None = None
    """Probability ratios above 1 plus this are clipped; unset: 0.28 for `dapo` (clip-higher), 0.0004 for `gspo`, 4 for
    `cispo`, else `clip_low`."""
    corrections: Annotated[tuple[CorrectionSettings, ...], Strict(False)] | None = None
    """What samples of other weights than the trainer's weigh, as in `[{name = "tis", high = 2.0}]`: `tis` (ratio of
    trainer to sampler, truncated), `mis` (left out above the bound), `icepop` (left out on both sides), `band` (weighs
    1 inside the bounds), all of them a token; `seq_tis`, `seq_mis`, `seq_band` (product over an episode), `geo_band`
    (its mean a token). One that weighs and any number of bands go together. Unset: `tis` where `rollout.staleness` is
    not 0 and `proximal` not `sampler`, else none."""
    proximal: Literal["auto", "sampler", "recompute"] = "auto"
    """What the ratios of the loss are against: what the `sampler` said, or what the weights say with which the step
    begins (`recompute`: with a correction that weighs, decoupled PPO). `auto`: the latter where corrections weigh."""
    backend: Literal["auto", "native", "torch"] = "auto"
    """What computes gradients: C++, torch, or the faster one that can be had; see docs/trainer.md."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the factors of products are rounded to where gradients are computed; weights and optimiser stay float32. In
    C++ `bfloat16` needs a processor that multiplies it (AVX512-BF16); in torch it is autocast."""
    checkpoint_activations: bool = False
    """Keep what goes into each layer and compute the rest again on the way back: a third more time, much less memory.
    By torch."""
    processes: Positive = 1
    """Processes that share gradients, optimiser and weights of the trainer (FSDP2), one a GPU where there are some; 1:
    none but the run's own. By torch; `docs/training-efficiency.md`."""
    address: str = ""
    """HOST:PORT of this machine, at which the run waits for these processes where you start them yourself (torchrun on
    several machines); `run.out` is then a folder that all of them see. Empty: the run starts them."""
    lora: LoraSettings | None = None
    """Learn adapters. A checkpoint holds the merged weights, and the adapter beside them in `trainer/adapter`, as PEFT
    opens it."""
    kl: Amount = 0.0
    """Weight of the divergence from the model that the run began with."""
    router_aux: Amount = 1e-3
    """Weight of the load-balancing loss of a mixture of experts, over a whole minibatch; dense models have none."""
    grad_clip: Amount = 1.0
    """Largest norm of the gradient; 0: no bound."""

    @model_validator(mode="after")
    def _corrects_once(self) -> Train:
        weighing = [one.name for one in self.corrections or () if not one.name.endswith("band")]
        _demand(len(weighing) < 2, f"corrections: {' and '.join(weighing)} weigh by the same ratios: take one of them")
        twice = weighing and self.proximal == "sampler"
        _demand(
            not twice,
            f"corrections: {'; '.join(weighing)} weighs by the ratio of trainer to sampler, and so do the loss's own "
            "ratios with proximal = 'sampler': take 'recompute', or a band",
        )
        return self


class Recipe(Section):
    """A whole recipe: what to train, on what, how, and for how long."""

    run: Run = Run()
    """How long, how reproducible, and where it goes."""
    model: Model = Model()
    """What is trained."""
    env: EnvSettings
    """Where the agent acts."""
    agent: AgentSettings = AgentSettings()
    """The harness."""
    rollout: Rollout = Rollout()
    """How episodes are sampled."""
    reward: RewardSettings = RewardSettings()
    """What an episode is paid beside the environment's own terms."""
    train: Train = Train()
    """How the weights change."""
    demonstrations: Demonstrations | None = None
    """What `sft` learns."""
    eval: EvalSettings = EvalSettings()
    """Held-out tasks."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """What survives."""
    audit: AuditSettings = AuditSettings()
    """What the verdict on the environment does to the run."""
    monitors: MonitorSettings = MonitorSettings()
    """What watches the traces of training."""
    log: LogSettings = LogSettings()
    """What is written along the way."""
    cluster: ClusterSettings = ClusterSettings()
    """One process, or many machines; `docs/cluster.md`."""
    faults: FaultSettings = FaultSettings()
    """Faults of the machinery, put in on purpose; `docs/faults.md`."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Recipe:
        run, model = self.run, self.model
        if run.kind == "rl":
            _demand(self.demonstrations is None, "[demonstrations] is for run.kind = 'sft', but this recipe is 'rl'")
            _demand(model.init is None, "model.init is for run.kind = 'sft': 'rl' needs a checkpoint that can act")
            _demand(run.minutes or run.steps, "run.minutes or run.steps is missing: when should the run stop?")
            _demand(self.rollout.group_size > 1, "rollout.group_size is 1: a group needs at least 2 to be compared")
        else:
            shown = self.demonstrations
            _demand(shown is not None, "[demonstrations] is missing: 'sft' needs to know what to learn from")
            assert shown is not None
            bounded = run.minutes or run.steps or shown.tokens or shown.episodes
            _demand(bounded, "none of run.minutes, run.steps, demonstrations.tokens, .episodes says when to stop")
            _demand(
                not self.rollout.staleness, "rollout.staleness is for 'rl': demonstrations are played by no weights"
            )
            kept = [mode for mode in shown.modes if (mode.budget, mode.budgets, mode.episode_budget) != (None,) * 3]
            _demand(not kept, "demonstrations.modes has a thinking budget, but a demonstrator keeps to none")
        rollout = self.rollout
        if rollout.engine == "embedded":
            _demand(rollout.vllm == VLLM(), "[rollout.vllm] is set, but rollout.engine is 'embedded'")
        else:
            _demand(model.init is None, f"rollout.engine = {rollout.engine!r} needs model.checkpoint, not model.init")
        if rollout.engine == "vllm":
            _demand(not rollout.vllm.url, "rollout.vllm.url is for rollout.engine = 'vllm-server'")
        of_nodes = any(one.site == "node" for one in self.faults.inject)
        _demand(
            self.cluster.address or not of_nodes, "faults.inject: the site 'node' needs a [cluster] with an address"
        )
        if rollout.engine != "embedded" and self.cluster.address and self.cluster.engines:
            asked, gpus = rollout.vllm, self.cluster.engine_gpus
            _demand(
                not asked.url,
                f"cluster.engines = {self.cluster.engines} starts that many vLLMs, but rollout.vllm.url names what "
                "runs already: set cluster.engines = 0, or leave the url away",
            )
            _demand(
                asked.transfer == "shared_memory",
                f"rollout.vllm.transfer = {asked.transfer!r} is for a vLLM that the trainer's process speaks to; with "
                "cluster.engines weights go through the cluster's store and 'shared_memory'",
            )
            _demand(
                not gpus or gpus >= asked.tensor_parallel,
                f"rollout.vllm.tensor_parallel = {asked.tensor_parallel}, but cluster.engine_gpus = {gpus:g}: each "
                "engine needs as many",
            )
        self._weights_arrive()
        train = self.train
        _demand(not self.cluster.scratch or self.cluster.address, "cluster.scratch has no use without cluster.address")
        if train.processes > 1:
            _demand(train.lora is None, "train.lora and train.processes do not go together: adapters are small")
            _demand(train.backend != "native", "train.processes is by torch, but train.backend is 'native'")
        host, _, port = train.address.rpartition(":")
        _demand(not train.address or (host and port.isdecimal()), f"train.address is {train.address!r}, not HOST:PORT")
        _demand(not train.address or train.processes > 1, "train.address has no use without train.processes")
        _demand(
            not train.address or 0 < int(port) < 2**16,
            f"train.address is {train.address!r}: expected a port from 1 to 65535",
        )
        both = train.address and self.cluster.scratch
        _demand(not both, "train.address and cluster.scratch do not go together: one of them starts the trainers")
        if model.init is not None:
            _demand(self.train.lora is None, "train.lora adapts a checkpoint, but model.init begins with a fresh model")
            heads, groups = model.init.num_attention_heads, model.init.num_key_value_heads
            _demand(heads % groups == 0, f"model.init: {groups} key and value heads do not divide {heads} heads")
            _demand(model.init.head_dim % 2 == 0, f"model.init.head_dim is {model.init.head_dim}, expected even")
        return self

    def _weights_arrive(self) -> None:
        if self.rollout.engine != "vllm-server":
            return
        asked = self.rollout.vllm
        _demand(
            asked.transfer != "ipc",
            "rollout.vllm.transfer = 'ipc' needs vLLM in the trainer's process (its handles do not go over HTTP), but "
            "rollout.engine is 'vllm-server': take engine = 'vllm', or another transfer",
        )
        for url in asked.urls:
            here = _here(urlsplit(url).hostname)
            _demand(
                here or asked.transfer != "shared_memory",
                f"rollout.vllm.url has {url!r}, expected a server on this machine by its loopback address "
                "(http://127.0.0.1:PORT): rollout.vllm.transfer = 'shared_memory' gets weights to no other machine. "
                "For vLLMs on others set cluster.address and cluster.engines, and leave the url away",
            )
            _demand(
                here or not _here(asked.address),
                f"rollout.vllm.url has {url!r}, whose workers cannot reach rollout.vllm.address = {asked.address!r}: "
                "set it to an address of this machine that they reach",
            )
