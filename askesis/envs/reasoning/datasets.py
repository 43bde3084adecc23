"""Which datasets of reasoning-gym the family `reasoning` is made of, and what makes each of them harder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from askesis.envs.reasoning.drawing import Source

Subject = Literal["math", "logic", "code"]
LEVELS = (1, 2, 3)


def _spans(**bounds: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> tuple[dict[str, Any], ...]:
    """`min_<name>` and `max_<name>` of each level."""
    return tuple(
        {
            f"{end}_{name}": levels[at][place]
            for name, levels in bounds.items()
            for place, end in enumerate(("min", "max"))
        }
        for at in range(len(LEVELS))
    )


def _each(**values: tuple[Any, Any, Any]) -> tuple[dict[str, Any], ...]:
    return tuple({name: levels[at] for name, levels in values.items()} for at in range(len(LEVELS)))


def _both(one: tuple[dict[str, Any], ...], other: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    return tuple({**first, **second} for first, second in zip(one, other, strict=True))


DATASETS: Mapping[Subject, Mapping[str, tuple[dict[str, Any], ...]]] = {
    "math": {
        "chain_sum": _spans(terms=((2, 3), (3, 4), (5, 7)), digits=((2, 2), (2, 4), (4, 6))),
        "countdown": _both(
            _spans(numbers=((3, 3), (4, 4), (4, 5)), target=((10, 99), (10, 999), (100, 999))),
            _each(max_value=(20, 50, 100)),
        ),
        "decimal_chain_sum": _spans(
            terms=((2, 2), (2, 3), (4, 6)), digits=((1, 2), (2, 3), (3, 5)), decimal_places=((1, 1), (1, 2), (2, 4))
        ),
        "fraction_simplification": _both(
            _spans(value=((11, 60), (50, 500), (500, 9000)), factor=((2, 9), (5, 40), (20, 200))),
            _each(styles=(("plain",),) * 3),
        ),
        "lcm": _spans(numbers=((2, 2), (2, 3), (3, 4)), value=((15, 80), (20, 200), (50, 400))),
        "prime_factorization": _spans(value=((100, 2000), (1000, 9000), (9000, 90000))),
        "products": _spans(terms=((2, 2), (2, 2), (2, 3)), digits=((2, 2), (2, 3), (3, 5))),
        "simple_equations": _spans(terms=((2, 3), (3, 4), (4, 6)), value=((10, 99), (20, 400), (50, 2000))),
    },
    "logic": {
        "cryptarithm": _spans(words=((2, 2), (2, 3), (3, 3))),
        "futoshiki": _spans(board_size=((4, 4), (4, 5), (5, 5)), difficulty=((0, 0), (0, 1), (1, 2))),
        "graph_color": _each(num_colors=(3, 3, 3), min_num_vertices=(5, 7, 10), max_num_vertices=(6, 9, 12)),
        "kakurasu": _spans(rows=((4, 4), (4, 5), (5, 6)), cols=((3, 4), (4, 5), (5, 6))),
        "knights_knaves": _each(n_people=(5, 6, 7)),
        "mini_sudoku": _spans(empty=((5, 7), (8, 10), (11, 12))),
        "shortest_path": _both(
            _spans(rows=((5, 6), (7, 8), (9, 11)), cols=((5, 6), (7, 8), (9, 11))), _each(p_blocked=(0.2, 0.2, 0.2))
        ),
        "survo": _spans(board_size=((4, 4), (4, 5), (5, 6)), empty=((3, 4), (4, 6), (7, 9))),
    },
    "code": {
        "ab": _each(length=(6, 10, 20)),
        "base_conversion": _spans(base=((2, 9), (2, 16), (2, 36)), value=((20, 500), (100, 5000), (5000, 500000))),
        "binary_matrix": _spans(n=((3, 4), (4, 6), (7, 10))),
        "bitwise_arithmetic": _each(difficulty=(1, 2, 3)),
        "caesar_cipher": _spans(words=((2, 4), (4, 8), (10, 20))),
        "game_of_life": _each(
            grid_size_x=(4, 6, 9), grid_size_y=(4, 6, 9), filled_cells=(7, 14, 34), simulation_steps=(1, 1, 2)
        ),
        "manipulate_matrix": _spans(
            rows=((2, 4), (3, 6), (5, 9)), cols=((2, 4), (3, 6), (5, 9)), transforms=((1, 2), (2, 4), (4, 8))
        ),
        "palindrome_generation": _each(min_length=(4, 7, 12), max_length=(6, 10, 18)),
        "pool_matrix": _spans(
            rows=((4, 5), (5, 8), (8, 12)), cols=((4, 5), (5, 8), (8, 12)), pool_size=((2, 2), (2, 3), (2, 4))
        ),
        "rotate_matrix": _spans(n=((3, 4), (4, 6), (7, 10)), rotations=((1, 3), (1, 7), (1, 15))),
        "spell_backward": _spans(word_len=((4, 5), (6, 8), (9, 10))),
        "spiral_matrix": _spans(n=((3, 4), (5, 6), (7, 10))),
        "string_insertion": _spans(string_length=((5, 9), (10, 20), (20, 40))),
        "string_manipulation": _spans(string_length=((5, 8), (8, 16), (16, 30)), num_rules=((3, 3), (3, 5), (6, 9))),
        "word_sorting": _spans(words=((4, 5), (6, 9), (10, 20))),
    },
}
SUBJECTS: tuple[Subject, ...] = tuple(DATASETS)
SUBJECT_OF: Mapping[str, Subject] = {name: subject for subject, names in DATASETS.items() for name in names}


def source(name: str, level: int) -> Source:
    """The dataset as it is at that level."""
    return Source.of(name, DATASETS[SUBJECT_OF[name]][name][level - 1])
