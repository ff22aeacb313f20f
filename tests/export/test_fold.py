"""Folding: what is known not to happen leaves the text, and what is left does the same."""

import pytest

from golfpack.errors import UsageError
from golfpack.export.fold import fold


def test_branches_and_their_comments_go():
    source = """
def f(cfg, x):
    y = 0
    # Only of models with gates.
    if cfg.gated:
        y = gate(x)
    elif x > 3:
        y = 3  # kept
    else:
        # Kept as well.
        y = 4
    if cfg.tied and x:
        y += 1
    return y if not cfg.tied else -y
"""
    assert (
        fold(source, {"cfg.gated": False, "cfg.tied": True})
        == """
def f(cfg, x):
    y = 0
    if x > 3:
        y = 3  # kept
    else:
        # Kept as well.
        y = 4
    if x:
        y += 1
    return (-y)
"""
    )


CASES = {
    "an elif that holds": ("if x:\n    y = 1\nelif K:\n    y = 2\nelif z:\n    y = 3\n", True,
                           "if x:\n    y = 1\nelse:\n    y = 2\n"),
    "an elif that does not": ("if x:\n    y = 1\nelif K:\n    y = 2\nelse:\n    y = 3\n", False,
                              "if x:\n    y = 1\nelse:\n    y = 3\n"),
    "a last elif": ("if x:\n    y = 1\nelif K:\n    y = 2\n", False, "if x:\n    y = 1\n"),
    "the only statement": ("def f():\n    if K:\n        y = 2\n", False, "def f():\n    pass\n"),
    "behind a return": ("def f():\n    if K:\n        return 1\n    return 2\n", True,
                        "def f():\n    return 1\n"),
    "a value in the middle": ("y = x and K and z\n", True, "y = x and True and z\n"),
    "a condition in the middle": ("if x and K and z:\n    y = 1\n", True, "if x and z:\n    y = 1\n"),
    "an assertion": ("y = 1\nassert K, 'why'\n", True, "y = 1\n"),
    "nested": ("if K:\n    if not K:\n        y = 1\n    else:\n        y = [K]\n", True,
               "y = [True]\n"),
    "not what is written": ("K = 3\nx.K = 4\n", True, "K = 3\nx.K = 4\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_left(case):
    source, known, left = CASES[case]
    assert fold(source, {"K": known}) == left


def test_numbers_and_tables_are_worked_out():
    assert fold("y = a.n * 2 if 'b' in t else 0\n", {"a.n": 3, "'b' in t": True}) == "y = 6\n"


@pytest.mark.parametrize("known", [{"1 +": 1}, {"x": object()}])
def test_what_cannot_be_known(known):
    with pytest.raises(UsageError):
        fold("x = 1\n", known)
