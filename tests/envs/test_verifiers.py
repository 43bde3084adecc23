"""The adapter to verifiers, which wants older versions of what we use: its tests run in environments of their own, that
`make venv-verifiers` makes."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from askesis.envs import load_env
from askesis.types import MissingExtra

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = HERE / "verifiers_examples"


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="verifiers is installed here")
def test_without_the_package_it_says_what_to_install():
    with pytest.raises(MissingExtra, match=r"pip install 'askesis\[verifiers\]'"):
        load_env("verifiers:gsm8k")


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("venv", "cases"),
    [
        (".venv-verifiers-legacy", "legacy_verifiers_cases.py"),
        (".venv-verifiers-legacy", "taskset_verifiers_cases.py"),
        (".venv-verifiers", "taskset_verifiers_cases.py"),
    ],
)
def test_against_the_real_package(venv, cases):
    python = ROOT / venv / "bin" / "python"
    assert python.exists(), f"no {venv} here, against which this is tested: make venv-verifiers (make test-full does)"
    path = os.pathsep.join(map(str, (ROOT, EXAMPLES, HERE)))
    run = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / cases)]
    done = subprocess.run(
        run, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
