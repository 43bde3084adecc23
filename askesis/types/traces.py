"""Tasks, traces and what became of them: pure data, hashable by content, storable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from askesis.types.messages import Message, Thinking
from askesis.types.tokens import Floats, Mask, TokenIds, Versions

Split = Literal["train", "heldout"]
EndedBy = Literal["policy", "limit", "environment", "tool", "sandbox", "verifier", "engine", "agent", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one episode. None means no bound of its own (the engine's context always bounds tokens).

    max_turns: assistant messages. max_tokens: sampled and forced tokens of all turns together.
    max_turn_tokens: of one turn. wall_s: seconds from set-up to the last turn, without those in which the policy
    waited for the engine. tool_s: seconds of one tool call. In neither count those in line for a sandbox's worker.
    """

    max_turns: int = 16
    max_tokens: int | None = None
    max_turn_tokens: int = 512
    wall_s: float = 120.0
    tool_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do. `data` is JSON: what the environment needs to set it up and to verify it."""

    env: str
    prompt: str
    data: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    split: Split = "train"
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.content_hash())

    def content_hash(self) -> str:
        """16 hex digits over environment, prompt and data; the split and the limits do not count."""
        content = json.dumps([self.env, self.prompt, self.data], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Who ended an episode, and how. `reason` is a short stable word (`submitted`, `max_turns`, `timeout`, ...).

    by: `agent` is the harness itself failing, `cancelled` a rollout that was shut down; both are infrastructure.
    """

    by: EndedBy
    reason: str
    detail: str = ""

    @property
    def learnable(self) -> bool:
        """Whether the episode says something about the policy. All else is infrastructure: never baseline or loss."""
        return self.by in ("policy", "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """One term of the reward; the total is the sum of value x weight. Weight 0 makes it a metric."""

    name: str
    value: float
    weight: float = 1.0
    evidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One message of a trace, with the tokens that stand for it. Arrays have shape [n].

    parent: index of the node before it, -1 at the root. sampled: whether a policy produced it.
    mask: true where a token was sampled (and so may carry loss); forced tokens and observations are false.
    temperature: at which it was sampled, where that need not be the trace's.
    """

    parent: int
    message: Message
    sampled: bool
    token_ids: TokenIds
    mask: Mask
    logprobs: Floats
    policy_versions: Versions
    finish_reason: str = ""
    started_s: float = 0.0
    ended_s: float = 0.0
    thinking_tokens: int = 0
    forced_close: bool = False
    temperature: float | None = None

    @property
    def thought(self) -> bool:
        """Whether the policy thought here at all; an empty pair of think tags is no thought."""
        return self.thinking_tokens > 0 and bool(self.message.reasoning.strip())

    @property
    def closed_by_itself(self) -> bool:
        """Whether the policy ended its thinking and went on to say or do something, with no budget's help."""
        said = self.message.text or self.message.tool_calls or self.message.failures
        return self.thought and not self.forced_close and bool(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEvent:
    """One executed tool call: after which node, how long (seconds), how it ended (`ok`, or an error's kind).

    fault: the kind of fault that a perturbation put into its answer.
    """

    node: int
    name: str
    seconds: float
    status: str = "ok"
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a conversation of a trace begins that is not its first, and why.

    root: its first node. origin: the last node, so far, of the conversation that it came from. kind: `compaction`: it
    goes on in that one's place, from fewer messages; `agent`: a sub-agent's own. name, outcome: of the sub-agent.
    """

    root: int
    origin: int
    kind: Literal["compaction", "agent"]
    name: str = ""
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Something for people beside the tokens, which no model sees: a screenshot, say.

    node, call: the node whose call made it, and that call's id; a tool leaves both to the session.
    """

    name: str
    media_type: str
    data: bytes
    node: int = -1
    call: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where an episode's time went, in seconds."""

    setup_s: float = 0.0
    engine_s: float = 0.0
    tool_s: float = 0.0
    verify_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """An episode as a tree of nodes. Each branch, root to leaf, is a sequence that the model saw.

    harness: name and version of the agent. seed: what made the episode reproducible.
    temperature: at which it was sampled; log-probabilities are of the distribution scaled by it. log: what an agent's
    own program wrote, where it is one. forks: what began compacted conversations and sub-agents' own, each with a root
    of its own (`Node.parent` -1); nodes of conversations that were held at the same time stand among each other.
    artifacts: what tools left for people, in the order in which it was made.
    """

    id: str
    task: Task
    harness: str
    nodes: tuple[Node, ...]
    rewards: tuple[Reward, ...]
    outcome: Outcome
    timing: Timing
    thinking: Thinking = field(default_factory=Thinking)
    tool_events: tuple[ToolEvent, ...] = ()
    seed: int = 0
    attempt: int = 0
    temperature: float = 1.0
    group: str = ""
    log: str = ""
    forks: tuple[Fork, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    schema: int = 1

    @property
    def reward(self) -> float:
        """The weighted sum of all terms."""
        return sum(term.value * term.weight for term in self.rewards)

    @property
    def success(self) -> bool:
        """Whether the term named `success` was paid in full."""
        return any(term.name == "success" and term.value >= 1.0 for term in self.rewards)

    @property
    def turns(self) -> int:
        """Assistant messages that the policy sampled."""
        return sum(node.sampled for node in self.nodes)

    @property
    def thinking_tokens(self) -> int:
        """Tokens spent inside think tags, over all turns."""
        return sum(node.thinking_tokens for node in self.nodes)

    def branches(self) -> list[list[int]]:
        """Node indices from root to leaf, one list a leaf, in the order in which the leaves were added."""
        parents = {node.parent for node in self.nodes}
        paths = []
        for leaf in (i for i in range(len(self.nodes)) if i not in parents):
            path, at = [], leaf
            while at >= 0:
                path.append(at)
                at = self.nodes[at].parent
            paths.append(path[::-1])
        return paths

    @property
    def temperatures(self) -> list[float]:
        """At which its nodes were sampled: one, unless a program asked for others on the way."""
        return sorted({self._temperature(node) for node in self.nodes if node.sampled})

    def _temperature(self, node: Node) -> float:
        return self.temperature if node.temperature is None else node.temperature

    def sequences(self, *, temperature: float | None = None) -> list[tuple[TokenIds, Mask, Floats, Versions]]:
        """Each branch as (token_ids, mask, logprobs, versions); a sampled node is masked in at its first branch only.

        temperature: mask in only what was sampled at it.
        """
        seen: set[int] = set()
        if temperature is not None:
            seen = {i for i, node in enumerate(self.nodes) if self._temperature(node) != temperature}
        out = []
        for path in self.branches():
            nodes = [self.nodes[i] for i in path]
            masks = [np.zeros_like(n.mask) if i in seen else n.mask for i, n in zip(path, nodes, strict=True)]
            seen.update(path)
            out.append(
                (
                    np.concatenate([n.token_ids for n in nodes]),
                    np.concatenate(masks),
                    np.concatenate([n.logprobs for n in nodes]),
                    np.concatenate([n.policy_versions for n in nodes]),
                )
            )
        return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Traces of one task in one thinking mode and budget: what an advantage is computed within."""

    id: str
    task: Task
    thinking: Thinking
    traces: Sequence[Trace]

    @property
    def learnable(self) -> list[Trace]:
        """The traces that may reach baseline and loss."""
        return [trace for trace in self.traces if trace.outcome.learnable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a probe or a monitor found. rate of n trials, interval at 95%; `repro` is a command that replays it."""

    probe: str
    severity: Literal["info", "low", "medium", "high"]
    rate: float
    n: int
    interval: tuple[float, float]
    evidence: str = ""
    repro: str = ""
