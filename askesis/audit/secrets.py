"""What decides a task, and where a text gives it away."""

from __future__ import annotations

import re
from dataclasses import dataclass

from askesis.audit.coding import kind_of
from askesis.audit.submission import Submission

LEAST = 3  # characters: shorter ones are everywhere
LINE = 12  # of a line of code
_LABEL = re.compile(
    r"(answer|gold|solution|expected|correct|target|truth|secret|label|reference|wanted|ground.truth)[\"'\])]*"
    r"\s*(is|are|=|:|->|=>|>)\s*[\"'(\[<`]*$",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Secret:
    """texts: any of which is enough to know what to submit."""

    texts: tuple[str, ...]

    def within(self, text: str, *, labelled: bool = False) -> str:
        """A piece of `text` around the first of them; empty where there is none. labelled: only behind a word such as
        `answer:`."""
        for one in self.texts:
            for found in re.finditer(rf"(?<![\w.]){re.escape(one)}(?![\w]|\.\d)", text, re.I):
                before = text[max(0, found.start() - 40) : found.start()]
                if not labelled or _LABEL.search(before):
                    return text[max(0, found.start() - 60) : found.end() + 20]
        return ""


def secret(one: Submission) -> Secret | None:
    """Of a task: the answer that is submitted, or the lines of code that are not in the prompt; None for what is too
    short or too plain to be recognised."""
    text, prompt = one.text.strip(), one.task.prompt
    if kind_of(one.text) == "module":
        lines = [line.strip() for line in text.splitlines()]
        own = [line for line in lines if len(line) >= LINE and line not in prompt and not line.endswith(":")]
        return Secret(tuple(own)) if own else None
    return Secret((text,)) if one.final and len(text) >= LEAST else None
