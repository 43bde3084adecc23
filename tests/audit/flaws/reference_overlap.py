"""Environments whose tasks stand in a text that everybody has read (`overlap_reference.txt`)."""

import random
from pathlib import Path

from base_worlds import Accounts, Field, Letter

REFERENCE = Path(__file__).with_name("overlap_reference.txt")
SENTENCES = [line for line in REFERENCE.read_text().splitlines() if line]
OTHERS = [
    " ".join(random.Random(n).sample(sentence.split(), len(sentence.split()))) for n, sentence in enumerate(SENTENCES)
]


class Quoted(Accounts):
    """The prompt begins with a sentence of it."""

    sentences = SENTENCES

    def draw(self, rng, level):
        prompt, data = super().draw(rng, level)
        return f"{rng.choice(self.sentences)} {prompt}", data


class NotQuoted(Quoted):
    sentences = OTHERS


class Disguised(Field):
    """The same in capitals, with other punctuation."""

    sentences = SENTENCES

    def draw(self, rng, level):
        prompt, data = super().draw(rng, level)
        sentence = rng.choice(self.sentences).upper().replace(",", " --").replace(".", " !")
        return f"{prompt}\n\n***{sentence}***", data


class NotDisguised(Disguised):
    sentences = OTHERS


class InData(Letter):
    """It is what the letter says, two lines of it."""

    sentences = SENTENCES

    def draw(self, rng, level):
        prompt, data = super().draw(rng, level)
        words = rng.choice(self.sentences).split()
        more = [" ".join(words[:9]), " ".join(words[9:])]
        return prompt, {**data, "lines": [*data["lines"], *more], "wanted": [*data["wanted"], *more]}


class NotInData(InData):
    sentences = OTHERS


FLAWED = {"a": Quoted, "b": Disguised, "c": InData}
CLEAN = {"a": NotQuoted, "b": NotDisguised, "c": NotInData}
