"""Model families: which architecture a state dict is of, and how to build it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from golfpack.errors import UsageError
from golfpack.models.alph.family import ALPH
from golfpack.models.base import (
    Family,
    StateDict,
    check_tensors,
    settle,
    typed_overrides,
)
from golfpack.models.bottleneck.family import BOTTLENECK
from golfpack.models.golf.family import GOLF
from golfpack.models.gpt2.family import GPT2
from golfpack.models.llama.family import LLAMA
from golfpack.models.tensors import TENSORS
from golfpack.models.user.choice import current_choice
from golfpack.models.user.family import USER
from golfpack.spec import ModelSpec

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GOLF,
        BOTTLENECK,
        ALPH,
        LLAMA,
        GPT2,
        USER,
        TENSORS,
    )
}


class Detected(NamedTuple):
    """A recognised model.

    Attributes:
        family: the family.
        config: complete, JSON-safe config.
        assumed: the part of `config` that neither shapes nor the user told: the family's defaults.
        state: the tensors as the family's module names them (see `Family.adapt`).
        notes: what was done to the names to get there, for the user.
        spec: what the packer may know about the model.
    """

    family: Family
    config: dict[str, Any]
    assumed: dict[str, Any]
    state: StateDict
    notes: tuple[str, ...]
    spec: ModelSpec


def find_family(name: str) -> Family:
    """The family of that name, or UsageError listing the known ones."""
    if name not in FAMILIES:
        raise UsageError(f"unknown model family {name!r}", f"known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def detect(
    state: StateDict,
    family: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    stored: Mapping[str, Any] | None = None,
    fallback: str | None = None,
) -> Detected:
    """Recognise the family of a state dict and read its config from names and shapes.

    Args:
        state: tensors by name; their values matter only where a family tells aliases by them.
        family: name of the family to read it as; None takes the one that `--model` chose
            (`choice.py`), or else tries all.
        overrides: config values that win over the stored ones, as typed values or strings.
        stored: the config that the checkpoint carries, by its trainer's names.
        fallback: name of the family to read it as where none is recognised; None: an error.

    Raises:
        UsageError: unknown family, contradicting shapes or overrides, or an open choice.
    """
    stored, given = stored or {}, overrides or {}
    candidates = _candidates(family)
    for candidate in candidates:
        known = {**stored, **given}
        adapted, notes = candidate.adapt(state, known) if candidate.adapt else (state, [])
        if candidate.matches(adapted):
            own = candidate.read_config(stored) if candidate.read_config and stored else {}
            typed = typed_overrides(candidate.config_type, {**own, **given})
            told = candidate.infer(adapted, typed)
            config, assumed = settle(candidate.config_type, told, typed)
            spec = describe(candidate, config, adapted)
            check_tensors(spec, adapted)
            return Detected(candidate, config, assumed, adapted, tuple(notes), spec)
    if fallback is not None:
        found = detect(state, fallback, given, stored)
        note = f"the tensors are of no known model family: taken as they are ({fallback})"
        return found._replace(notes=(*found.notes, note))
    needs = "; ".join(f"{f.name}: {f.needs}" for f in candidates)
    names = ", ".join(sorted(state)[:3])
    raise UsageError(
        f"the checkpoint's {len(state)} tensors ({names}, ...) are of no known model family",
        f"add --data-free to pack them as they are, or --model FILE.py:CLASS. A family needs these "
        f"tensors: {needs}",
    )


def _candidates(family: str | None) -> list[Family]:
    """The families to try, in order."""
    choice = current_choice()
    if family is None and choice is not None:
        family = choice.family
    if family is not None:
        return [find_family(family)]
    return [f for f in FAMILIES.values() if not f.asked_only]


def describe(family: Family, config: Mapping[str, Any], state: StateDict) -> ModelSpec:
    """The spec of a model of `family`, which its config tells, or else its tensors."""
    return family.spec(config) if family.describe is None else family.describe(config, state)
