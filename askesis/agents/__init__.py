"""Harnesses: how a policy meets a task. Each is a named, versioned value, so that two can be compared."""

from askesis.agents.external import ExternalAgent
from askesis.agents.registry import AGENTS, load_agent
from askesis.agents.solo import SoloAgent

__all__ = ["AGENTS", "ExternalAgent", "SoloAgent", "load_agent"]
