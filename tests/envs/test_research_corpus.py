"""`research` over a user's corpus: folders and packages become questions that stand in them, and in one split alone."""

import json
import re

import pytest

from askesis.envs import load_env
from askesis.loop import play_policy
from askesis.types import ConfigError, EnvError

PAGES = {
    "index.md": "# Start here\n\nAll of it is told in [the handbook](guide/handbook.md) and in [the log](log.rst).\n\n"
    "The service listens on port `8123` unless another one is asked for.\n",
    "guide/handbook.md": "# The handbook\n\nSee [the front page](../index.md).\n\nA request is given up after 450 "
    "milliseconds, and then tried twice more.\n\nSet `MAIL_FOLDER` to where letters are to be kept on this machine.\n",
    "log.rst": "The log\n=======\n\nEvery line of the log begins with ``stamp``, whatever else is written on it.\n\n"
    "Read on in :doc:`guide/handbook`, which tells the rest.\n",
    "notes/more.html": "<html><head><title>no</title></head><body><h1>More notes</h1><p>The cache holds <b>2048</b> "
    "letters at most, and forgets the oldest one first.</p><p>As <a href='../index.md'>the beginning</a> says.</p>"
    "<script>var x = 4096;</script></body></html>",
    "code/shapes.py": '''"""Shapes that are drawn on paper."""


class Shape:
    """Something that can be drawn on paper.

    See Also
    --------
    draw : Puts it on paper.
    """

    def grow(self, factor=2):
        """Make the shape larger by some factor.

        Raises
        ------
        ValueError
            If the factor is below one.
        """


class Circle(Shape):
    """A shape that is round everywhere.

    .. versionadded:: 1.4
    """

    def __init__(self, radius: int = 7, *, colour: str = "red") -> None: ...


def draw(shape, pen="thin", steps=12) -> "Circle":
    """Put a shape on paper with a pen.

    Raises
    ------
    OSError
        If there is no paper.
    """
''',
    "code/inks.py": '''"""Inks that pens are filled with."""


class Ink:
    """What a pen is filled with before it writes."""

    def dry(self, minutes=15):
        """Wait until nothing can be smeared.

        Raises
        ------
        TimeoutError
            If it stays wet.
        """


class Blue(Ink):
    """An ink as blue as the sea.

    .. versionadded:: 2.1
    """

    def __init__(self, depth: int = 3) -> None: ...


def mix(first, second, share=0.5, name="grey") -> "Ink":
    """Pour two inks together in one glass.

    See Also
    --------
    Blue : The one that is asked for most.

    Raises
    ------
    KeyError
        If one of them is not there.
    """
''',
    "other_line_ends.md": "\ufeff# Far away\r\n\r\nOnly 17 of the ships came back from\r\nthere in that year.\r\n",
    "broken.py": "def (:",
    "binary.txt": "\0\1\2",
    "tests/test_shapes.py": 'def secret(value=999):\n    """A function that no question may ask about."""\n',
}


@pytest.fixture(autouse=True)
def no_index_of_the_users(tmp_path, monkeypatch):
    """Indexes that are kept go elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    for name, text in PAGES.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")
    return tmp_path / "corpus"


def documents_of(tasks):
    return {document for task in tasks for hop in task.data["hops"] for document, _ in hop["accept"]}


async def passages(env, task):
    state = await env.setup(task)
    return {id: " ".join(" ".join(one.text for one in await state.index.passages(id)).split()) for id in touched(task)}


def touched(task):
    return {d for hop in task.data["hops"] for d, _ in hop["accept"]} | {d for d, _ in task.data["weak"]}


async def test_a_folder_of_any_texts_is_asked_about(folder):
    """What decides stands where it is said to, the question does not tell it, and no document is in both splits."""
    env = load_env("research", corpus=str(folder))
    train, heldout = env.tasks("train"), env.tasks("heldout")
    assert len(train) > 10 and len(heldout) > 5
    assert not documents_of(train) & documents_of(heldout)
    kinds = {task.data["kind"] for task in (*train, *heldout)}
    assert kinds >= {"default", "owner", "raises", "code", "number"}
    assert any('the page "Far away"' in task.prompt and task.data["answer"] == "17" for task in (*train, *heldout))
    for task in (*train, *heldout):
        texts = await passages(env, task)
        for hop in task.data["hops"]:
            ((document, said),) = hop["accept"]
            assert said in texts[document]
        for document, said in task.data["weak"]:
            assert said in texts[document] and document not in documents_of([task])
        question = task.prompt.splitlines()[-1]
        answer = re.escape(task.data["answer"].strip("'\"").casefold())
        assert not re.search(rf"(?<!\w){answer}(?!\w)", question.casefold())
        assert "999" not in question and "4096" not in question
    assert [task.id for task in load_env("research", corpus=str(folder)).tasks("heldout")] == [t.id for t in heldout]
    await env.close()


@pytest.mark.parametrize("link", ["[page {}]({}.md)", ":doc:`page {} <{}>`", '<a href="{}.html#top">page {}</a>'])
async def test_links_between_pages_are_followed(tmp_path, link):
    suffix = "html" if "<a" in link else "rst" if ":doc:" in link else "md"
    for at in range(24):
        read = " and ".join(link.format(there % 24, there % 24) for there in (at + 1, at + 2, at + 3))
        paragraphs = f"Of all letters {at + 50} are kept on this page for good.", f"Then read {read} too."
        text = "<h1>Page {}</h1><p>{}</p><p>{}</p>" if suffix == "html" else "Page {}\n\n{}\n\n{}\n"
        (tmp_path / f"{at}.{suffix}").write_text(text.format(at, *paragraphs))
    env = load_env("research", corpus=str(tmp_path), levels=[1, 2])
    tasks = [task for task in env.tasks("train") if task.data["level"] == 2]
    for task in tasks:
        start, end = (int(hop["accept"][0][0].partition(".")[0]) for hop in task.data["hops"])
        assert (end - start) % 24 in (1, 2, 3) and f'"page {end}"' in task.prompt
        assert task.data["answer"] == str(end + 50)
    assert len(tasks) > 3
    evaluation = await play_policy(env, "oracle", tasks=5)
    assert evaluation.rows[0].summary.success == 1.0
    await env.close()


@pytest.mark.full
async def test_an_installed_package_is_asked_about_and_never_imported():
    env = load_env("research", corpus="package:networkx")
    for split in ("train", "heldout"):
        tasks = env.tasks(split, limit=30)
        assert {task.data["level"] for task in tasks} == {1, 2, 3}
        assert {task.data["kind"] for task in tasks} >= {"default", "code", "raises", "owner"}
    for policy, least, most in (("oracle", 1, 1), ("null:submit", 0, 0), ("random", 0, 0)):
        evaluation = await play_policy(env, policy, tasks=12)
        assert least <= evaluation.rows[0].summary.success <= most, policy
    shares = {}
    for quality in ("good", "poor", "hasty"):
        evaluation = await play_policy(
            env, lambda spec, tools, q=quality: env.demonstrator(spec.task, seed=1, quality=q), tasks=30
        )
        shares[quality] = evaluation.rows[0].summary.success
    assert 1 == shares["good"] > shares["poor"] > shares["hasty"]
    other = load_env("research").tasks("train", limit=1)[0]
    with pytest.raises(EnvError, match="another corpus"):
        await env.setup(other)
    await env.close()


RIGHT = {
    "question": "How long does a request last?",
    "answer": ["450 milliseconds", "450"],
    "quotes": [
        {"document": "index.md", "quote": "[the handbook](guide/handbook.md)"},
        {"document": "guide/handbook.md", "quote": "A request is given up after 450\nmilliseconds"},
    ],
}


def given(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


async def test_questions_of_ones_own_are_taken_as_they_are(folder, tmp_path):
    second = {"question": "Where?", "answer": "stamp", "quotes": [{"document": "log.rst", "quote": "with ``stamp``"}]}
    path = given(tmp_path / "own.jsonl", RIGHT, "", second | {"split": "heldout"})
    env = load_env("research", corpus=str(folder), questions=path)
    (train,), (heldout,) = env.tasks("train"), env.tasks("heldout")
    assert train.prompt.endswith(RIGHT["question"]) and heldout.prompt.endswith("Where?")
    state = await env.setup(train)
    assert not [one for one in state.index.sources if one in ("forum", "blog")]  # nothing is added to it
    evaluation = await play_policy(env, "oracle", tasks=1)
    assert evaluation.rows[0].summary.success == 1.0
    await env.close()


def chained(at, *pages, split=None):
    """A question that goes by these pages."""
    quotes = [{"document": f"{page}.md", "quote": f"The number of page {page} is {page + 100}"} for page in pages]
    line = {"question": f"What is asked as number {at}?", "answer": str(pages[-1] + 100), "quotes": quotes}
    return line if split is None else line | {"split": split}


@pytest.mark.parametrize("pages", [40, 5])
def test_questions_that_share_any_part_of_their_way_are_in_one_split(tmp_path, pages):
    (tmp_path / "corpus").mkdir()
    for page in range(pages):
        (tmp_path / "corpus" / f"{page}.md").write_text(
            f"# Page {page}\n\nThe number of page {page} is {page + 100}.\n"
        )
    chains = [(at, at + 1) for at in range(0, pages - 1, 2)] + [(0, 2)]  # the last one ties two of them together
    lines = [chained(at, *chain) for at, chain in enumerate(chains)]
    env = load_env("research", corpus=str(tmp_path / "corpus"), questions=given(tmp_path / "own.jsonl", *lines))
    train, heldout = env.tasks("train"), env.tasks("heldout")
    assert len(train) + len(heldout) == len(chains) and train
    assert not documents_of(train) & documents_of(heldout)
    if pages == 40:
        assert len(heldout) > 2
    tied = [task for task in (*train, *heldout) if documents_of([task]) & {"0.md", "1.md", "2.md", "3.md"}]
    assert len({task.split for task in tied}) == 1 and len(tied) == 3
    for first, second in (((0, 1), (0, 3)), ((0, 1), (2, 0)), ((1, 3), (4, 3))):  # first, any, and last page in common
        lines = [chained(0, *first, split="train"), chained(1, *second, split="heldout")]
        with pytest.raises(ConfigError, match="both splits"):
            load_env("research", corpus=str(tmp_path / "corpus"), questions=given(tmp_path / "own.jsonl", *lines))
    lines = [chained(0, 0, 1, split="train"), chained(1, 1, 2), chained(2, 2, 3, split="heldout")]
    with pytest.raises(ConfigError, match="both splits"):  # tied by one that says nothing
        load_env("research", corpus=str(tmp_path / "corpus"), questions=given(tmp_path / "own.jsonl", *lines))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "a request"}, "tells the answer"),
        ({"answer": "500"}, "holds none of the answers"),
        ({"answer": []}, "empty list"),
        ({"quotes": []}, "quotes"),
        ({"quotes": [{"document": "index.m", "quote": "450"}]}, "did you mean 'index.md'"),
        ({"quotes": [{"document": "index.md", "quote": "450 seconds"}]}, "no passage of 'index.md'"),
        ({"quotes": [{"document": "index.md", "quote": "450 " * 99}]}, "at most 280"),
        ({"quote": "x"}, "quote: Extra inputs"),
        ({"split": "test"}, "split"),
    ],
)
def test_a_question_that_the_corpus_does_not_bear_is_refused(folder, tmp_path, change, said):
    path = given(tmp_path / "own.jsonl", RIGHT | {"question": "Before?"}, RIGHT | change)
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        load_env("research", corpus=str(folder), questions=path)
    assert "1 of 2 questions" in str(refused.value) and "line 2" in str(refused.value)


def test_files_of_questions_that_are_none_are_refused(folder, tmp_path):
    both = [RIGHT | {"question": f"{n}?", "split": split} for n, split in enumerate(("train", "heldout"))]
    for lines, said in (
        (["{"], "line 1"),
        ([RIGHT, RIGHT], "line 2: the same question as in line 1"),
        ([""], "no question"),
        (both, "both splits"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_env("research", corpus=str(folder), questions=given(tmp_path / "own.jsonl", *lines))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_env("research", corpus=str(folder), questions=str(tmp_path / "nowhere.jsonl"))


def test_a_corpus_that_is_none_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "a.md").write_text("# One\n\nNothing that could be asked.\n")
    for options, said in (
        ({"corpus": str(tmp_path / "nowhere")}, "no file or folder"),
        ({"corpus": "package:no-such-thing"}, "pip install no-such-thing"),
        ({"corpus": "package:networkz"}, "did you mean 'networkx'"),
        ({"corpus": str(tmp_path / "empty")}, "holds nothing to read"),
        ({"corpus": str(tmp_path / "short")}, "no question can be made"),
        ({"corpus": ["package:typer", "package:typer"]}, "give each source once"),
        ({"questions": "own.jsonl"}, "no corpus"),
        ({"corpus": "x", "questions": "own.jsonl", "levels": [1]}, "levels"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_env("research", **options)
