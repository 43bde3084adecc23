"""The command line in process: what it prints, and the code it exits with."""

from dataclasses import dataclass

import pytest

from askesis.cli import main
from askesis.loop import to_toml


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys):
    def run(*arguments) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(ended.value.code or 0, printed.out, printed.err)

    return run


@pytest.fixture
def toy(toy_recipe, tmp_path):
    """The path of the toy recipe, written as a person would."""
    path = tmp_path / "toy.toml"
    path.write_text(to_toml(toy_recipe))
    return path
