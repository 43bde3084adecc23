"""A function as a tool: what the model is told of it, and what comes of a call."""

from typing import Literal

import pytest

from askesis.envs import tool
from askesis.types import ConfigError, Outcome, ToolResult


class Shop:
    def find(self, text: str, most: int = 3, sort: Literal["price", "name"] = "price"):
        """Find things.

        The model is not told this.
        """
        return f"{most} of {text} by {sort}"

    async def buy(self, things: list[str], gift: bool | None):
        """Buy things."""
        return ToolResult(text=f"{things}, {gift}", end=Outcome(by="policy", reason="submitted"))


async def test_the_model_is_told_what_the_function_says():
    find, buy = tool(Shop().find), tool(Shop().buy, name="purchase", description="Pay.")
    assert (find.spec.name, find.spec.description) == ("find", "Find things.")
    assert find.spec.parameters == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "most": {"type": "integer"}, "sort": {"enum": ["price", "name"]}},
        "required": ["text"],
    }
    assert (buy.spec.name, buy.spec.description) == ("purchase", "Pay.")
    assert buy.spec.parameters["properties"] == {
        "things": {"type": "array", "items": {"type": "string"}},
        "gift": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    }
    assert (await find({"text": "hats", "most": 2}, None)).text == "2 of hats by price"
    bought = await buy({"things": ["hat"], "gift": None}, None)
    assert (bought.text, bought.end.reason) == ("['hat'], None", "submitted")
    unknown = await find({"text": "hats", "colour": "red"}, None)  # the schema lets it through
    assert unknown.error
    assert "colour" in unknown.text
    assert tool(lambda: "now", name="clock").spec.parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    "function", [lambda text: "", lambda *texts: "", lambda **texts: "", type("C", (), {"f": lambda self, x: ""})().f]
)
def test_an_argument_that_the_model_cannot_be_told_of_is_refused(function):
    with pytest.raises(ConfigError, match="expected `name: type`"):
        tool(function, name="f")
