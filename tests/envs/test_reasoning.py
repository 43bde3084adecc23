"""reasoning-gym, as the family `reasoning` and one dataset at a time: what is right is paid, nothing else is."""

import asyncio
import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import scorers_double
from cheating import Scripted, call
from cheats_reasoning import PLANTED, TIE

from askesis.envs import load_env
from askesis.envs.reasoning.datasets import DATASETS, LEVELS, SUBJECT_OF, source
from askesis.envs.reasoning.drawing import Source, heldout, known
from askesis.envs.reasoning.scoring import EXACT, GRAMMARS, _asker, evaluating, formula, judge, judged, release
from askesis.loop import play_policy
from askesis.types import ConfigError, Outcome, VerifierError


@pytest.fixture(autouse=True, scope="module")
def nothing_left():
    """Verdicts that no environment asked for have held the process that scores."""
    yield
    release()


def entries(name, level, count=4):
    drawn = source(name, level)
    return drawn.dataset(0, 2**31 - 1), [drawn.entry(0, 2**31 - 1, 7919 * n) for n in range(1, count + 1)]


def not_answers(right, wrong, question):
    """What holds the right answer, or nearly, and is none."""
    yield from (
        f"{right} or {wrong}",
        f"{right}, {wrong}",
        f"{wrong}, {right}",
        f"{right}\n{wrong}",
        f"{wrong}\n{right}",
    )
    yield from (f"not {right}", f"The answer is {right}", f"{right} (or maybe {wrong})", f"{right} {right}")
    yield from (question[:3000], " ", "nan", "inf", "-1e308", "[]", "{}", "None", "0", TIE)


@pytest.mark.parametrize("name", SUBJECT_OF)
def test_the_known_answer_is_right_and_what_is_near_it_is_not(name):
    for level in LEVELS:
        dataset, drawn = entries(name, level)
        for entry in drawn:
            right = known(entry)
            assert judge(dataset, name, right, entry).right
            assert judge(dataset, name, f"  {right}\n", entry).right
            wrong = next((known(one) for one in drawn if known(one) != right), "17")
            for said in not_answers(right, wrong, entry["question"]):
                verdict = judge(dataset, name, said, entry)
                assert not verdict.right or said == right, (level, right, said, verdict)


async def test_a_class_of_its_own_pays_where_several_answers_are_right():
    dataset, (entry, *_) = entries("countdown", 1)
    turned = " + ".join(str(n) for n in entry["metadata"]["numbers"])
    exact = entry | {"metadata": entry["metadata"] | {"target": sum(entry["metadata"]["numbers"])}, "answer": "?"}
    assert judge(dataset, "countdown", turned, exact).right
    assert not judge(dataset, "countdown", turned.replace("+", "-"), exact).right
    assert judge(dataset, "countdown", "(" + turned + ")", exact).right


def test_splits_share_no_question_and_every_level_and_dataset_is_drawn():
    env = load_env("reasoning")
    train, held = env.tasks("train", limit=150), env.tasks("heldout", limit=150)
    questions = [{task.prompt for task in tasks} for tasks in (train, held)]
    assert len(questions[0]) == len(questions[1]) == 150 and not questions[0] & questions[1]
    drawn = {(task.data["dataset"], task.data["level"]) for task in train}
    assert len({name for name, _ in drawn}) > 0.8 * len(SUBJECT_OF) and {level for _, level in drawn} == set(LEVELS)
    share = sum(SUBJECT_OF[task.data["dataset"]] == "math" for task in train) / 150
    assert 0.2 < share < 0.47


async def test_oracle_and_poor_demonstrator_and_no_answer():
    env = load_env("reasoning")
    shares = {}
    for policy in ("oracle", "demonstrator", "null", "null:submit", "random"):
        shares[policy] = (await play_policy(env, policy, tasks=40)).rows[0].summary.success
    assert shares["oracle"] == 1.0 and 0.4 < shares["demonstrator"] < 0.8
    assert shares["null"] == shares["null:submit"] == 0.0 and shares["random"] <= 0.05


async def test_a_question_that_is_another_now_is_the_verifiers_failure():
    env = load_env("reasoning", datasets=["lcm"])
    task = env.tasks("train", limit=1)[0]
    state = await env.setup(task)
    state.answer = "12"
    moved = replace(task, data={**task.data, "place": task.data["place"] + 1})
    changed = SimpleNamespace(task=moved, outcome=Outcome(by="policy", reason="submitted"))
    with pytest.raises(VerifierError, match="makes another question"):
        await env.verify(changed, state)


async def test_python_runs_in_a_sandbox_and_is_counted():
    env = load_env("reasoning", python=True, datasets=["products"], levels=[3])

    def play(task):
        numbers = re.findall(r"\d+", task.prompt.partition("=")[0])
        printed = yield call("python", code=f"print({'*'.join(numbers)})")
        yield call("answer", answer=printed)

    evaluation = await play_policy(env, lambda spec, tools: Scripted(play, spec.task), tasks=4)
    await env.close()
    assert evaluation.rows[0].summary.success == 1.0
    assert evaluation.rows[0].summary.outcomes == {"policy:submitted": 4}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("reasoning", {"levels": [4]}, "levels"),
        ("reasoning", {"subjects": ["maths"]}, "did you mean 'math'"),
        ("reasoning", {"datasets": ["zebra_puzzles"]}, "reasoning_gym:zebra_puzzles"),
        ("reasoning", {"subjects": ["logic"], "datasets": ["lcm"]}, "nothing is left"),
        ("reasoning_gym:chain_summ", {}, "did you mean 'chain_sum'"),
        ("reasoning_gym:chain_sum", {"min_term": 3}, "did you mean 'min_terms'"),
        ("reasoning_gym:chain_sum", {"min_terms": 0}, "is refused"),
        ("reasoning_gym:propositional_logic", {}, "no answer"),
        ("reasoning_gym:chain_sum", {"size": 0}, "size"),
    ],
)
def test_what_cannot_be_is_refused(name, options, said):
    with pytest.raises(ConfigError, match=said):
        load_env(name, **options)


async def test_any_dataset_by_name_with_its_options():
    env = load_env("reasoning_gym:family_relationships", min_family_size=5, size=50)
    train, held = env.tasks("train", limit=30), env.tasks("heldout", limit=5)
    assert len(train) == 30 and len(held) == 5 and not {t.prompt for t in train} & {t.prompt for t in held}
    assert all(heldout(task.prompt.rpartition("\n\n")[0]) for task in held)
    assert (await play_policy(env, "oracle", tasks=10)).rows[0].summary.success == 1.0
    other = load_env("reasoning_gym:family_relationships", min_family_size=5, size=50)
    assert [task.id for task in other.tasks("train", limit=30)] == [task.id for task in train]
    assert not hasattr(load_env("reasoning_gym:boxnet"), "oracle")


def test_what_scorers_evaluate_is_known_and_what_they_are_shown_is_no_code(tmp_path):
    from reasoning_gym.factory import DATASETS as ALL

    found = {name for name, (kind, _) in ALL.items() if evaluating(kind)}
    assert {"countdown", "puzzle24", "simple_integration", "spiral_matrix", "n_queens", "binary_matrix"} <= found
    assert not {"chain_sum", "mini_sudoku", "word_sorting"} & found
    for code in (
        TIE,
        "x.__class__",
        "().__class__",
        "[].append",
        "open('a')",
        "lambda: 1",
        "9**9**9",
        "x**999",
        "(9**9)",
    ):
        for grammar in set(GRAMMARS.values()):
            assert not grammar(code) or code == "(9**9)", (grammar.__name__, code)
    for fine in (
        "3*x**2/2 + sin(x) - C",
        "-120*z**3 + 160*z**2",
        "2*(2 - 8*x)**(3/2)/3 + C",
        "-cos(3*x - 10)**3/3 + C",
    ):
        assert formula(fine), fine
    assert formula("x*(x**2 + 1)**3/3 + sqrt(1 - 9*x**2)") and formula("exp(x)*sin(x)**(-2)")


BOMBS = ["((9**99)**99)**99", "(9*9)**9", "((x**99)**99)**99", "(" * 150 + "x" + ")" * 150]
BOMBS += [
    "*".join(["(x + y + z + t + a + b)**9"] * 12),
    "((x+1)**9*(y+1)**9)**9",
    "2**9",
    "pi**9",
    "E**9",
    "x(x)(x)**2",
]


def test_an_answer_that_would_take_for_ever_is_not_read():
    for bomb in BOMBS:
        assert formula(bomb) == (bomb in BOMBS[3:4]), bomb


async def test_an_answer_that_takes_more_than_it_may_is_wrong_and_others_are_judged_on():
    drawn = Source.of("simple_integration", {})
    dataset, entry = drawn.dataset(0, 50), drawn.entry(0, 50, 1)
    right = known(entry).replace(" + C", "")
    slow, large = scorers_double.Slow(), scorers_double.Large()
    found = await asyncio.gather(
        judged(slow, "simple_integration", "x", entry),
        judged(large, "simple_integration", "x", entry),
        judged(dataset, "simple_integration", f"{right} - C", entry),
    )
    assert [one.right for one in found] == [False, False, True]
    assert "took more than it may" in found[0].why and ("MemoryError" in found[1].why or "took more" in found[1].why)
    with pytest.raises(VerifierError, match="fails on the known answer"):
        await judged(scorers_double.Failing(), "simple_integration", "x", entry)
    _asker()._process.kill()
    _asker()._process.wait()
    assert (await judged(dataset, "simple_integration", f"{right} - C", entry)).right


@pytest.mark.full
@pytest.mark.timeout(900)
def test_no_dataset_of_reasoning_gym_pays_for_what_is_no_answer():
    from reasoning_gym.factory import DATASETS as ALL

    paid = {}
    for name in sorted(set(ALL) - {"composite"}):
        drawn = Source.of(name, {})
        with contextlib.redirect_stdout(io.StringIO()):
            dataset, found = drawn.dataset(3, 40), [drawn.entry(3, 40, place) for place in range(6)]
        for entry in found:
            right = known(entry)
            if right is None:
                continue
            assert judge(dataset, name, right, entry).right, name
            wrong = next((known(one) for one in found if known(one) != right), "zzz")
            for said in not_answers(right, wrong, entry["question"]):
                verdict = judge(dataset, name, said, entry)
                if verdict.right and verdict.why != "the known answer":
                    paid.setdefault(name, []).append(said[:60])
    # A way that is taken twice may end where it should in sokoban.
    assert set(paid) <= {"sokoban"}, paid
    assert not Path(PLANTED).exists()
    assert set(ALL) >= EXACT and set(GRAMMARS) <= set(ALL)


def test_the_family_has_three_subjects_of_some_size():
    assert set(DATASETS) == {"math", "logic", "code"} and len(SUBJECT_OF) >= 24
    assert min(map(len, DATASETS.values())) >= 6
