"""`team`: questions whose parts lie in different hands: an orchestrator and its specialists. See README.md beside this
file."""

from askesis.envs.team.environment import Team

__all__ = ["Team"]
