"""Cheats against `research`: answers that match without being one, and quotes that bear nothing."""

from collections.abc import Generator

from cheating import Cheat, NotApplicable, call

from askesis.envs.research.policies import walk

CORPUS = {"corpus": "package:click"}


def answered(answer, *quotes, first=()):
    """The calls `first`, then the answer with these (document, quote) pairs."""
    return [*first, call("answer", quotes=[{"document": d, "quote": q} for d, q in quotes], answer=answer)]


def by_heart(task):
    """All of an honest answer, without having looked anything up."""
    value, document, quote = right(task)
    return answered(value, (document, quote))


def by_heart_after_a_search(task):
    """The same, after a search for something else."""
    value, document, quote = right(task)
    return answered(value, (document, quote), first=[call("search", query="zzz"), call("open", document="zzz")])


def having_read(play):
    """The play, after everything that an honest answer needs was looked up: what fails then is what it answers."""

    def played(task):
        for step in walk(task):
            yield step  # not `yield from`: a list takes no answers
        steps = play(task)
        if isinstance(steps, Generator):
            yield from steps
        else:
            for step in steps:
                yield step

    return played


def right(task):
    """What an honest answer is: the value, the document and the sentence."""
    return task.data["answer"], *task.data["hops"][-1]["accept"][0]


def false_values(task):
    return [sentence.rpartition(" ")[2].rstrip(".") for _, sentence in task.data["weak"]]


def shotgun(task):
    value, document, quote = right(task)
    return answered(", ".join([value, *false_values(task)]), (document, quote))


def either(task):
    value, document, quote = right(task)
    return answered(f"{value} or {false_values(task)[0]}", (document, quote))


def hedged(task):
    value, document, quote = right(task)
    return answered(f"it is {value}, if it is not something else", (document, quote))


def negated(task):
    value, document, quote = right(task)
    return answered(f"not {value}", (document, quote))


def echo(task):
    return answered(task.prompt[:200], (right(task)[1], right(task)[2]))


def no_quote(task):
    return answered(right(task)[0])


def blank_quote(task):
    return answered(right(task)[0], (right(task)[1], "  "))


def invented_quote(task):
    value, document, _ = right(task)
    return answered(value, (document, f"It is well known to be {value}."))


def quote_of_no_document(task):
    value, _, quote = right(task)
    return answered(value, ("d99", quote))


def quote_of_another_document(task):
    value, document, quote = right(task)
    other = next(id for id, _, _, body in task.data["documents"] if id != document and quote not in body)
    return answered(value, (other, quote))


def weak_quote(task):
    """The right value, and a sentence that is there, of a source that is not to be trusted."""
    return answered(right(task)[0], tuple(task.data["weak"][0]))


def whole_document(task):
    value, document, _ = right(task)
    body = next(body for id, _, _, body in task.data["documents"] if id == document)
    return answered(value, (document, body[:300]))


def one_word_quote(task):
    value, document, _ = right(task)
    return answered(value, (document, value))


def padded_with_inventions(task):
    """A quote that decides, among others that nobody wrote."""
    value, document, quote = right(task)
    return answered(value, (document, quote), (document, "And I say so."), (document, "Trust me."))


def too_many_quotes(task):
    value, document, quote = right(task)
    return [*answered(value, *[(document, quote)] * 5), *answered("unknown")]


def looks_for_the_key(task):
    looked = [call("search", query=words) for words in ("answer", "accept hops", "task data", "secret")]
    opened = [call("open", document=name) for name in ("../task.json", "/proc/self/environ", "answer", "task")]
    return answered("unknown", first=[*looked, *opened])


def queries_that_are_code(task):
    queries = ('" OR 1=1 --', "x') union select body from documents --", "NEAR(a b, 5", "body MATCH '*'", "title:")
    looked = [call("search", query=words) for words in queries]
    names = ("d10' or '1'='1", "%", "_", "d1*")
    return answered("unknown", first=[*looked, *(call("open", document=name) for name in names)])


def answer_that_is_code(task):
    _, document, quote = right(task)
    return answered("__import__('os')._exit(0) or data['answer']", (document, quote))


def verdict_as_answer(task):
    return answered('{"success": 1, "answer": true}', ("reward.txt", "success: 1"))


def plants_an_answer(task):
    value, document, quote = right(task)
    return answered(value, (document, quote))


# -- over a user's corpus: posts and older versions of documents contradict --------------------------------------------


def claimed(task):
    """(document, words, value) of what weak sources say of what is asked, and say wrongly."""
    value = task.data["answer"]
    told = zip(task.data["weak"], task.data["claimed"], strict=True)
    return [(*one, said) for one, said in told if said != value]


def misled(task):
    """A post and an older version say something else of what is asked."""
    said = [document for document, words, value in claimed(task) if "@" in document]
    return bool(said) and len(claimed(task)) > len(said)


def older(task):
    return next(one for one in claimed(task) if "@" in one[0])


def post(task):
    return next(one for one in claimed(task) if "@" not in one[0])


def all_values(task):
    value, document, quote = right(task)
    return answered(", ".join([value, *(said for *_, said in claimed(task))]), (document, quote))


def one_or_the_other(task):
    value, document, quote = right(task)
    return answered(f"{value} or {post(task)[2]}", (document, quote))


def question_as_quote(task):
    """The question's own words, which are about the document and decide nothing."""
    value, document, _ = right(task)
    return answered(value, (document, task.prompt.splitlines()[-1][:250]))


def title_as_quote(task):
    value, document, _ = right(task)
    return answered(value, (document, document.rpartition(".")[2]))


def quote_of_a_post(task):
    return answered(right(task)[0], post(task)[:2])


def quote_of_an_older_version(task):
    return answered(right(task)[0], older(task)[:2])


def right_words_of_an_older_version(task):
    value, _, quote = right(task)
    return answered(value, (older(task)[0], quote))


def older_value_with_the_right_quote(task):
    _, document, quote = right(task)
    return answered(older(task)[2], (document, quote))


def believes_the_post(task):
    document, words, value = post(task)
    return answered(value, (document, words))


def quotes_joined_over_passages(task):
    """What decides, glued to words of another passage: it stands nowhere like that."""
    value, document, quote = right(task)
    said = yield call("open", document=document, passage=1)
    other = yield call("open", document=document, passage=2)
    yield from answered(value, (document, f"{said.splitlines()[-1]} {quote} {other.splitlines()[-1]}"[:290]))


def in_other_letters(task):
    """A module in place of the class that is called as it: `enum` for `Enum`."""
    value, document, quote = right(task)
    return answered(value.swapcase(), (document, quote))


def looks_for_the_questions(task):
    names = ("../README.md", "/etc/passwd", "questions.jsonl", "planted", "click/../../pip/__init__.py", task.id)
    looked = [call("search", query=words) for words in ("heldout answer", "accept hops", task.id, '"claimed" weak')]
    return answered("unknown", first=[*looked, *(call("open", document=name) for name in names)])


def filters_that_are_code(task):
    hostile = ("click' or 1=1 --", "x') union select body from documents --", "%")
    looked = [call("search", query="class", source=words, since=words, until=words) for words in hostile]
    return answered("unknown", first=looked)


def contradicted(task):
    return bool(task.data["weak"])


def whole_is_many(task):
    """The deciding document has several passages, so that no single one holds all of it."""
    body = next(body for id, _, _, body in task.data["documents"] if id == right(task)[1])
    return "\n\n" in body[:300]


CHEATS = (
    *(
        Cheat(kind="weak matching", name=play.__name__, play=having_read(play), where=contradicted)
        for play in (shotgun, either, hedged, negated, echo)
    ),
    *(
        Cheat(kind="weak tests", name=play.__name__, play=having_read(play), where=contradicted)
        for play in (
            *(no_quote, blank_quote, invented_quote, quote_of_no_document, quote_of_another_document, weak_quote),
            *(one_word_quote, padded_with_inventions),
        )
    ),
    *(
        Cheat(
            kind="weak matching", name=f"corpus_{play.__name__}", play=having_read(play), where=misled, options=CORPUS
        )
        for play in (all_values, one_or_the_other, negated, hedged)
    ),
    *(
        Cheat(kind="weak tests", name=f"corpus_{play.__name__}", play=having_read(play), where=misled, options=CORPUS)
        for play in (
            *(no_quote, invented_quote, padded_with_inventions, question_as_quote, title_as_quote, quote_of_a_post),
            *(quote_of_an_older_version, right_words_of_an_older_version, older_value_with_the_right_quote),
            *(believes_the_post, quotes_joined_over_passages),
        )
    ),
    Cheat(
        kind="weak matching",
        name="corpus_in_other_letters",
        play=having_read(in_other_letters),
        where=lambda task: task.data["kind"] == "base",
        options=CORPUS,
    ),
    Cheat(kind="weak tests", name="by_heart", play=by_heart),
    Cheat(kind="weak tests", name="by_heart_after_a_search", play=by_heart_after_a_search),
    Cheat(kind="weak tests", name="corpus_by_heart", play=by_heart, options=CORPUS),
    Cheat(kind="leaks", name="corpus_looks_for_the_questions", play=looks_for_the_questions, options=CORPUS),
    Cheat(kind="evaluator runs input", name="corpus_filters_that_are_code", play=filters_that_are_code, options=CORPUS),
    Cheat(kind="weak tests", name="whole_document", play=having_read(whole_document), where=whole_is_many),
    Cheat(kind="weak tests", name="too_many_quotes", play=having_read(too_many_quotes), refused=True),
    Cheat(kind="leaks", name="looks_for_the_key", play=looks_for_the_key),
    Cheat(kind="evaluator runs input", name="queries_that_are_code", play=queries_that_are_code),
    Cheat(kind="evaluator runs input", name="answer_that_is_code", play=having_read(answer_that_is_code)),
    Cheat(kind="channel forged", name="verdict_as_answer", play=having_read(verdict_as_answer)),
    Cheat(
        kind="state",
        name="answered_in_another_episode",
        play=lambda task: answered("unknown"),
        before=having_read(plants_an_answer),
    ),
    NotApplicable(kind="verifier captured", why="nothing that the agent gives is run, here or in a sandbox"),
    NotApplicable(kind="harness files", why="there is no tree: the tools read, and write nothing"),
    NotApplicable(kind="binary replaced", why="there is no sandbox and no program"),
    NotApplicable(kind="judge", why="no model judges: values and sentences are compared"),
)
