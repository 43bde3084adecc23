"""`repair_project`: repair at full size, in any Python project with tests. See README.md beside this file."""

from askesis.envs.repair.project.environment import RepairProject
from askesis.envs.repair.project.making import Making, make_tasks
from askesis.envs.repair.project.reading import Project, read_project

__all__ = ["Making", "Project", "RepairProject", "make_tasks", "read_project"]
