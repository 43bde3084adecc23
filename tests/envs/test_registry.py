"""Names of environments: what each form finds, and what is said of those that find nothing."""

import sys
import types

import pytest
from toy_env import TOY

from askesis.envs import load_env, registry
from askesis.types import ConfigError


@pytest.fixture
def adapter(monkeypatch):
    module = types.ModuleType("an_adapter")

    class Adapter:
        def __init__(self, rest, *, size=1):
            self.name, self.size = f"other:{rest}", size
            self.tasks = self.setup = self.tools = self.verify = self.close = None

    module.Adapter = Adapter
    monkeypatch.setitem(sys.modules, "an_adapter", module)
    monkeypatch.setitem(registry.ADAPTERS, "other", "an_adapter:Adapter")


def test_a_prefix_gets_the_rest_of_the_name_and_the_options(adapter):
    env = load_env("other:http://127.0.0.1:8000/x", size=3)
    assert (env.name, env.size) == ("other:http://127.0.0.1:8000/x", 3)
    assert load_env(TOY).name


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("other:", {}, "expected 'other:...', with what to load"),
        ("other", {}, "expected 'other:...', with what to load"),
        ("otter:x", {}, "cannot import otter.*did you mean 'other'"),
        ("repare", {}, "did you mean 'repair'.*'other:...'"),
        ("other:x", {"sise": 1}, "options .* do not fit"),
    ],
)
def test_a_name_that_finds_nothing_says_what_was_looked_for(adapter, name, options, said):
    with pytest.raises(ConfigError, match=said):
        load_env(name, **options)
