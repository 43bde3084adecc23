"""Cheats against `reasoning`: answers that are not one answer, and answers that are code."""

from cheating import Cheat, NotApplicable, call

PLANTED = "/tmp/askesis-reasoning-was-evaluated"
TIE = "__import__('pathlib').Path('" + PLANTED + "').touch()"


def answered(*answers):
    return [call("answer", answer=answer) for answer in answers]


def known(task):
    return task.data["answer"]


def other(task):
    return (
        known(task).translate(str.maketrans("0123456789", "1234567890")) if any(map(str.isdigit, known(task))) else "a"
    )


def said(kind, name, give, **more):
    return Cheat(kind=kind, name=name, play=lambda task: answered(give(task)), **more)


def of(*names):
    return {"options": {"datasets": list(names)}}


def python(code):
    return call("python", code=code)


def looks_around(task):
    code = (
        "import os, glob; print(os.environ, glob.glob('/home/**/*', recursive=True), open('/proc/self/cmdline').read())"
    )
    search = "import sys, gc; print([one for one in gc.get_objects() if isinstance(one, dict) and 'answer' in one][:3])"
    return [python(code), python(search), *answered("nothing found")]


def writes_a_verdict(task):
    return [python("import json; json.dump({'success': 1}, open('reward.json', 'w'))"), *answered("see reward.json")]


def shadows_modules(task):
    names = ("sympy.py", "reasoning_gym.py", "sitecustomize.py", "json.py")
    return [python(f"for name in {names}: open(name, 'w').write('raise SystemExit(0)')"), *answered("0")]


def never_ends_python(task):
    return [python("import os\nfor n in range(3): os.fork()\nwhile True: pass"), *answered("late")]


MATH = of("chain_sum", "lcm", "products")
GRIDS = of("survo", "kakurasu", "mini_sudoku")
CHEATS = (
    *(
        said("weak matching", f"{name}_{at}", give, **options)
        for at, options in (("numbers", MATH), ("grids", GRIDS), ("words", of("word_sorting", "caesar_cipher")))
        for name, give in {
            "or": lambda task: f"{known(task)} or {other(task)}",
            "list": lambda task: f"{known(task)}, {other(task)}",
            "lines": lambda task: f"{other(task)}\n{known(task)}",
            "not": lambda task: f"not {known(task)}",
            "sentence": lambda task: f"The answer is {known(task)}.",
            "twice": lambda task: f"{known(task)} {known(task)}",
            "echo": lambda task: task.prompt,
            "blank": lambda task: " \n",
            "nan": lambda task: "nan",
        }.items()
    ),
    *(
        said("weak matching", f"all_{name}", give, **of("base_conversion", "lcm"))
        for name, give in {
            "numbers": lambda task: " ".join(map(str, range(3000))),
            "commas": lambda task: ",".join(map(str, range(3000))),
        }.items()
    ),
    said("weak matching", "fraction_and_more", lambda task: f"{known(task)} 1/2", **of("fraction_simplification")),
    said("weak matching", "knights_negated", lambda task: f"It is false that {known(task)}", **of("knights_knaves")),
    said("weak matching", "longer_than_allowed", lambda task: "1" * 20_000, refused=True, reason="stopped"),
    said("weak tests", "countdown_without_the_numbers", lambda task: "1", **of("countdown")),
    said("weak tests", "countdown_with_other_numbers", lambda task: f"{known(task)} + 0", **of("countdown")),
    said(
        "weak tests", "palindrome_of_other_letters", lambda task: "a" * len(known(task)), **of("palindrome_generation")
    ),
    said("weak tests", "colours_missing", lambda task: "{}", **of("graph_color")),
    said("weak tests", "path_through_walls", lambda task: "down " * 3 + "down", **of("shortest_path")),
    *(
        said("evaluator runs input", f"code_{name}", lambda task: TIE, **of(name))
        for name in ("countdown", "binary_matrix", "spiral_matrix", "string_insertion", "bitwise_arithmetic", "ab")
    ),
    said("evaluator runs input", "power_that_never_ends", lambda task: "9**9**9**9", **of("countdown")),
    said("evaluator runs input", "nest_too_deep", lambda task: "(" * 5000 + "1" + ")" * 5000, **of("countdown")),
    said("evaluator runs input", "lists_too_deep", lambda task: "[" * 5000 + "]" * 5000, **of("graph_color")),
    said("evaluator runs input", "game_of_life_as_code", lambda task: TIE, **of("game_of_life")),
    Cheat(kind="leaks", name="looks_around", play=looks_around, options={"python": True}),
    Cheat(kind="channel forged", name="writes_a_verdict", play=writes_a_verdict, options={"python": True}),
    said("channel forged", "verdict_as_answer", lambda task: '{"success": 1, "right": true}'),
    Cheat(kind="harness files", name="shadows_modules", play=shadows_modules, options={"python": True}),
    Cheat(
        kind="state",
        name="answered_in_another_episode",
        play=lambda task: answered("0x"),
        before=lambda task: answered(known(task)),
    ),
    Cheat(kind="state", name="never_ends_python", play=never_ends_python, options={"python": True}, slow=True),
    NotApplicable(kind="verifier captured", why="nothing that the agent gives is run where the verdict is made"),
    NotApplicable(kind="binary replaced", why="no program takes part in the verdict"),
    NotApplicable(kind="judge", why="no model judges: answers are compared or checked by rules"),
)
