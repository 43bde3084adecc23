"""Environments with a planted flaw, and their clean twins: `flaws/<probe>.py` has both, as `FLAWED` and `CLEAN`."""

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

FLAWS = Path(__file__).parent / "flaws"


@lru_cache
def planted(probe):
    """The module of fixtures of a probe."""
    if str(FLAWS) not in sys.path:
        sys.path.append(str(FLAWS))  # their bases import each other by name
    name = probe.replace("-", "_")
    spec = importlib.util.spec_from_file_location(f"planted_{name}", FLAWS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def probes_with_fixtures():
    """Their names."""
    return sorted(file.stem.replace("_", "-") for file in FLAWS.glob("*.py") if not file.stem.startswith("base_"))
