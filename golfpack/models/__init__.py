"""Model families: which architecture a state dict is of, and how to build it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from golfpack.errors import UsageError
from golfpack.models.base import (
    Family,
    StateDict,
    check_tensors,
    settle,
    typed_overrides,
)
from golfpack.models.golf import GOLF

FAMILIES: dict[str, Family] = {GOLF.name: GOLF}


class Detected(NamedTuple):
    """A recognised model.

    Attributes:
        family: the family.
        config: complete, JSON-safe config.
        assumed: the part of `config` that neither shapes nor the user told: the family's defaults.
    """

    family: Family
    config: dict[str, Any]
    assumed: dict[str, Any]


def find_family(name: str) -> Family:
    """The family of that name, or UsageError listing the known ones."""
    if name not in FAMILIES:
        raise UsageError(f"unknown model family {name!r}", f"known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def detect(
    state: StateDict, family: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Detected:
    """Recognise the family of a state dict and read its config from names and shapes.

    Args:
        state: tensors by name; only names and shapes are looked at.
        family: name of the family to read it as; None tries all.
        overrides: config values that win over the defaults, as typed values or strings.

    Raises:
        UsageError: unknown family, contradicting shapes or overrides, or an open choice.
    """
    candidates = FAMILIES.values() if family is None else [find_family(family)]
    for candidate in candidates:
        if candidate.matches(state):
            typed = typed_overrides(candidate.config_type, overrides or {})
            told = candidate.infer(state, typed)
            config, assumed = settle(candidate.config_type, told, typed)
            check_tensors(candidate.spec(config), state)
            return Detected(candidate, config, assumed)
    needs = "; ".join(f"{f.name}: {f.needs}" for f in candidates)
    names = ", ".join(list(state)[:3])
    raise UsageError(
        f"the checkpoint's {len(state)} tensors ({names}, ...) are of no known model family",
        f"a family needs these tensors: {needs}",
    )
