"""Opening what a path names: a checkpoint or an artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.errors import CorruptError, UsageError
from golfpack.models import detect
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.loader import Artifact, is_artifact, load
from golfpack.packer.recipe import parse_value


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory, from a checkpoint or from an artifact."""

    family: str
    config: dict[str, Any]
    weights: Mapping[str, np.ndarray]
    sha256: str
    assumed: dict[str, Any]


def open_model(path: Path, settings: tuple[str, ...] = ()) -> LoadedModel:
    """Read a checkpoint or an artifact, whichever the file is.

    Raises:
        UsageError, CorruptError: as `load_checkpoint` and `load`.
    """
    model_settings, rest = split_settings(settings)
    if rest:
        raise UsageError(f"--set {rest[0]!r} sets nothing here", "use --set model.OPTION=VALUE")
    if not is_artifact(path) and path.suffix != ".golf":
        c = load_checkpoint(path, model_settings)
        return LoadedModel(c.family, c.config, c.weights, c.sha256, c.assumed)
    if model_settings:
        raise UsageError(
            "an artifact carries its model's options; --set model... cannot change them",
            "set them when building",
        )
    artifact = load(path)
    check_against_family(artifact)
    return LoadedModel(
        artifact.family, artifact.config, artifact.weights(), artifact.container.sha256, {}
    )


def check_against_family(artifact: Artifact) -> None:
    """Raise CorruptError unless the artifact's config is what its tensors tell, and they are all there.

    The config is checked against the shapes before anything is built from it: one that lies could ask
    for any amount of memory.
    """
    shapes = {n: torch.empty(e.shape, device="meta") for n, (e, _) in artifact.tensors.items()}
    try:
        config = detect(shapes, artifact.family, artifact.config).config
    except UsageError as e:
        raise CorruptError(f"the artifact holds no usable model: {e.message}", e.hint) from e
    if config != artifact.config:
        missing = sorted(set(config) - set(artifact.config))
        raise CorruptError(f"the artifact's config lacks {', '.join(missing)}", None)


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


def checkpoint_stem(path: Path) -> str:
    """A checkpoint's file name without its format: "a/b.int8.ptz" -> "b"."""
    return path.name.removesuffix(path.suffix).removesuffix(".int8")
