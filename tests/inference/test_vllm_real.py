"""The real vLLM, on the CPU, in what `make venv-vllm` makes: whole runs, updates in flight, damaged updates."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench import vllm_training
from bench.result import Options

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


@pytest.fixture
def python():
    assert PYTHON.exists(), "no .venv-vllm here, against which this is tested: make venv-vllm (make test-full does)"
    return str(PYTHON)


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_behind_its_server_it_trains_is_updated_in_flight_and_refuses_what_is_damaged(python):
    found = vllm_training.run(Options(values={"steps": "3", "python": python}))
    ours = found.ours
    assert ours["gap"] < 1e-4 and ours["in_flight_gap_max"] < 1e-2
    assert ours["in_flight_spanning"] > 0.5 and ours["in_flight_forced"] > 0
    assert (ours["refused"], ours["damaged"], ours["refused_in_training"]) == (3, 3, 1)
    assert ours["steps"] == 6 and ours["infrastructure"] == 0 and ours["ledger_faults"] == 0
    assert ours["in_flight_episodes"] > 0 and found.met


@pytest.mark.full
@pytest.mark.timeout(900)
def test_in_process_it_trains_too(python, tmp_path):
    script = Path(__file__).parent / "vllm_local_case.py"
    done = subprocess.run(
        [python, script, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == 2 and found["broken"] == 0 and found["versions"] == [0, 1]
    assert found["gaps"] and max(found["gaps"]) < 1e-4
