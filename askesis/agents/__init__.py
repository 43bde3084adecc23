"""Harnesses: how a policy meets a task. Each is a named, versioned value, so that two can be compared."""

from askesis.agents.compacting import CompactingAgent
from askesis.agents.external import ExternalAgent
from askesis.agents.orchestrator import OrchestratorAgent
from askesis.agents.registry import AGENTS, agent_for, load_agent
from askesis.agents.solo import SoloAgent

__all__ = [
    "AGENTS",
    "CompactingAgent",
    "ExternalAgent",
    "OrchestratorAgent",
    "SoloAgent",
    "agent_for",
    "load_agent",
]
