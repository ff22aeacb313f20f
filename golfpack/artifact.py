"""Opening what a path names: a checkpoint or an artifact."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from golfpack.base.convert import parse_value
from golfpack.errors import CorruptError, UsageError
from golfpack.models import FAMILIES, find_family
from golfpack.models.base import Family, defaults
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.detect import describe, detect
from golfpack.models.model import Model
from golfpack.models.source import read_source
from golfpack.models.user.family import USER, ClassError, check_form
from golfpack.packer.format.loader import Artifact, is_artifact, load


def open_model(
    path: Path,
    settings: tuple[str, ...] = (),
    family: Family | None = None,
    tokenizer: Path | None = None,
) -> Model:
    """Read a checkpoint or an artifact, whichever the file is.

    Args:
        settings: "model.option=value" of a checkpoint; an artifact carries its own.
        family: what `--model` says it is (see `choose_family`); None takes an artifact's word, and
            detects what a checkpoint is of.
        tokenizer: a checkpoint's, for options that depend on it.

    Raises:
        UsageError, CorruptError: as `load_checkpoint` and `load`, or `--model` is not the artifact's.
    """
    overrides = _model_settings(settings)
    if not names_artifact(path):
        return load_checkpoint(path, overrides, family, tokenizer=tokenizer)
    if overrides:
        raise UsageError(
            "an artifact carries its model's options; --set model... cannot change them",
            "set them when building",
        )
    return model_of(load(path), path, family)


def open_pair(
    path: Path,
    float_path: Path | None,
    settings: tuple[str, ...] = (),
    family: Family | None = None,
    tokenizer: Path | None = None,
) -> tuple[Model, Model | None]:
    """A model, and the float checkpoint it is to be held against, if any.

    Beside an artifact the settings are those of the float checkpoint; what its shapes leave open and
    no setting tells is as the artifact says.

    Raises:
        UsageError: as `open_model`, or the float checkpoint is not of the artifact's model.
        CorruptError: a damaged artifact.
    """
    if float_path is None:
        return open_model(path, settings, family, tokenizer), None
    if not names_artifact(path):
        both = path, float_path
        model, original = (open_model(p, settings, family, tokenizer) for p in both)
        return model, original
    packed = open_model(path, family=family)
    return packed, open_original(packed, float_path, settings)


def open_original(packed: Model, path: Path, settings: tuple[str, ...] = ()) -> Model:
    """The float checkpoint of an artifact's model.

    What its shapes leave open and no setting tells is as the artifact says.

    Raises:
        UsageError: as `open_model`, or its tensors are others.
    """
    overrides = _left_open(packed) | _model_settings(settings)
    original = load_checkpoint(path, overrides, packed.family)
    _check_same_tensors(packed, original, path)
    return original


def names_artifact(path: Path) -> bool:
    """Whether a file is to be read as an artifact: by its first bytes, or by its name."""
    return is_artifact(path) or path.suffix == ".golf"


def _left_open(model: Model) -> dict[str, Any]:
    """The config values that a checkpoint of this model does not tell by its shapes."""
    shapes = {n: torch.empty(w.shape, device="meta") for n, w in model.weights.items()}
    try:
        told = model.family.infer(shapes, {})
    except UsageError:  # shapes leave a dimension open: then all of the config is needed
        return model.config
    return {k: v for k, v in model.config.items() if k not in told}


def _check_same_tensors(packed: Model, original: Model, path: Path) -> None:
    for name in {**packed.weights, **original.weights}:
        shapes = [m.weights[name].shape if name in m.weights else None for m in (packed, original)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"{path} is not of the artifact's model: tensor {name!r} is {shapes[1] or 'absent'} "
                f"in it, {shapes[0] or 'absent'} in the artifact",
                "give the checkpoint the artifact was built from",
            )


def model_of(artifact: Artifact, path: Path, family: Family | None = None) -> Model:
    """An artifact's model. Its tensors must all be there, and its config must be what they tell.

    The config is checked against the shapes before anything is built from it: one that lies could ask
    for any amount of memory. Options that the artifact is older than take their defaults.

    Args:
        path: the artifact's.
        family: what `--model` says it is. Of a user's class, nothing runs unless this is its family.

    Raises:
        UsageError: `family` is not the artifact's.
        CorruptError: the config and the tensors are of no model, or contradict each other.
    """
    if family is not None and family.name != artifact.family:
        raise UsageError(
            f"{path} holds a model of family {artifact.family}, not {family.name}",
            "leave --model out: an artifact says what it is",
        )
    shapes = {n: torch.empty(e.shape, device="meta") for n, (e, _) in artifact.tensors.items()}
    try:
        family = family or find_family(artifact.family)
        if family.name == USER.name:
            check_form(artifact.config)
        if family is USER:
            config, spec = artifact.config, describe(USER, artifact.config, shapes)
        else:
            _, config, spec, *_ = detect(shapes, family, whole_config(artifact))
    except ClassError:
        raise  # of what the user named, not of the file
    except UsageError as e:
        raise CorruptError(f"the artifact holds no usable model: {e.message}", e.hint) from e
    if missing := sorted(set(config) - set(artifact.config) - family.newer):
        raise CorruptError(f"the artifact's config lacks {', '.join(missing)}", None)
    if mistyped := [k for k, v in artifact.config.items() if config[k] != v]:
        raise CorruptError(f"the artifact's config holds no proper {', '.join(mistyped)}", None)
    try:
        source = read_source(artifact.container.manifest.get("source", {}))
    except UsageError as e:
        raise CorruptError(e.message, e.hint) from e
    spec = replace(spec, source=source.compact())
    inside = (
        None if artifact.tokenizer is None else (artifact.tokenizer.name, artifact.tokenizer.data)
    )
    sha256 = artifact.container.sha256
    return Model(family, config, spec, artifact.weights(), sha256, {}, path, tokenizer=inside)


def whole_config(artifact: Artifact) -> dict[str, Any]:
    """The config in a file, with what its family's artifacts leave out at its default."""
    family = FAMILIES.get(artifact.family)
    if family is None:
        return artifact.config
    return {**defaults(family.config_type, family.newer), **artifact.config}


def _model_settings(settings: Sequence[str]) -> dict[str, Any]:
    model, rest = split_settings(settings)
    if rest:
        raise UsageError(f"--set {rest[0]!r} sets nothing here", "use --set model.OPTION=VALUE")
    return model


def split_settings(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`--set` values: those of the model, by option name, and the rest as they are.

    Raises:
        UsageError: a setting without "=".
    """
    model, rest = {}, []
    for setting in settings:
        key, eq, value = setting.partition("=")
        if not eq:
            raise UsageError(f"--set {setting!r} has no value", "use --set KEY=VALUE")
        if key.startswith("model."):
            model[key.removeprefix("model.")] = parse_value(value)
        else:
            rest.append(setting)
    return model, rest
