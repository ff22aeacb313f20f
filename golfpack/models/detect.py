"""Which family a state dict is of, and with which config."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.base import Family, StateDict, check_tensors, settle, typed_overrides
from golfpack.models.transformers_layout import unknown_type
from golfpack.spec import ModelSpec


class Detected(NamedTuple):
    """A recognised state dict.

    Attributes:
        family: the family.
        config: complete, JSON-safe config.
        spec: what the packer may know about the model.
        assumed: the part of `config` that neither shapes nor the user told: the family's defaults.
        state: the tensors as the family's module names them (see `Family.adapt`).
        notes: what was done to the names to get there, and what was left aside, for the user.
    """

    family: Family
    config: dict[str, Any]
    spec: ModelSpec
    assumed: dict[str, Any]
    state: StateDict
    notes: tuple[str, ...]


def detect(
    state: StateDict,
    family: Family | None = None,
    overrides: Mapping[str, Any] | None = None,
    stored: Mapping[str, Any] | None = None,
    fallback: Family | None = None,
    sidecar: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> Detected:
    """Recognise the family of a state dict and read its config from names and shapes.

    Args:
        state: tensors by name; their values matter only where a family tells aliases by them.
        family: the family to read it as; None tries all.
        overrides: config values that win over all others, as typed values or strings.
        stored: the config that the checkpoint carries, by its trainer's names.
        fallback: the family to read it as where none is recognised; None: an error.
        sidecar: config values from beside the checkpoint, which win over the stored ones. A family
            without options leaves them aside.
        tokenizer: the model's, read only for what depends on it and nothing else tells.

    Raises:
        UsageError: no family, or contradicting shapes or overrides.
    """
    candidates = [f for f in FAMILIES.values() if not f.asked_only] if family is None else [family]
    stored, given = stored or {}, {**(sidecar or {}), **(overrides or {})}
    for candidate in candidates:
        if fallback is not None and family is None and _is_of_another(candidate, stored):
            continue
        known = {**stored, **given}
        adapted, notes = candidate.adapt(state, known) if candidate.adapt else (state, [])
        if not candidate.matches(adapted):
            continue
        if sidecar and not fields(candidate.config_type):
            given = overrides or {}
            what = "the .config.json beside the checkpoint was left aside"
            notes = [*notes, f"{what}: {candidate.name} have no options"]
        own = candidate.read_config(stored) if candidate.read_config and stored else {}
        if tokenizer is not None and candidate.from_tokenizer is not None:
            own = {**candidate.from_tokenizer(adapted, given, tokenizer), **own}
        typed = typed_overrides(candidate.config_type, {**own, **given})
        told = candidate.infer(adapted, typed)
        config, assumed = settle(candidate.config_type, told, typed)
        spec = describe(candidate, config, adapted)
        check_tensors(spec, adapted)
        return Detected(candidate, config, spec, assumed, adapted, tuple(notes))
    if fallback is not None:
        found = detect(state, fallback, overrides, stored, sidecar=sidecar, tokenizer=tokenizer)
        note = f"the tensors are of no known model family: taken as they are ({fallback.name})"
        return found._replace(notes=(*found.notes, note))
    model_type, known_types = stored.get("model_type"), _model_types()
    if model_type is not None and model_type not in known_types:
        raise unknown_type(model_type, known_types)
    names = ", ".join(sorted(state)[:3])
    what = f"the checkpoint's {len(state)} tensors ({names}, ...) are"
    if family is not None:
        raise UsageError(
            f"{what} no model of family {family.name}", f"such a model has {family.needs}"
        )
    needs = "; ".join(f"{f.name}: {f.needs}" for f in candidates)
    raise UsageError(
        f"{what} of no known model family",
        f"add --data-free to pack them as they are, or --model FILE.py:CLASS. A family needs these "
        f"tensors: {needs}",
    )


def _is_of_another(candidate: Family, stored: Mapping[str, Any]) -> bool:
    """Whether config.json says that the tensors only look like those of this family."""
    model_type = stored.get("model_type")
    return bool(candidate.model_types) and model_type not in (None, *candidate.model_types)


def _model_types() -> tuple[str, ...]:
    return tuple(t for family in FAMILIES.values() for t in family.model_types)


def describe(family: Family, config: Mapping[str, Any], state: StateDict) -> ModelSpec:
    """The spec of a model of `family`, which its config tells, or else its tensors."""
    return family.spec(config) if family.describe is None else family.describe(config, state)
