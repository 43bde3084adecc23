"""Isolated execution: files, processes, time, memory, network. Bubblewrap, and nothing weaker where it is missing."""

from askesis.sandbox.lazy import LazyPool
from askesis.sandbox.pool import SandboxPool

__all__ = ["LazyPool", "SandboxPool"]
