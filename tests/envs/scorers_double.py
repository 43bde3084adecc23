"""Scorers that do not come back, take all memory, or fail."""


class Slow:
    def score_answer(self, answer, entry):
        while True:
            pass


class Large:
    def score_answer(self, answer, entry):
        return float(len([bytearray(2**26) for _ in range(64)])) if answer == "x" else 1.0


class Failing:
    def score_answer(self, answer, entry):
        raise RuntimeError(answer)
