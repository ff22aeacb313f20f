"""`golfpack import`: any checkpoint -> one safetensors file by golfpack's names, and its config."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from golfpack.artifact import names_artifact, split_settings
from golfpack.base.documents import SCHEMA_VERSION
from golfpack.base.files import write_atomically
from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.folder import refuse_itself
from golfpack.models.model import Model
from golfpack.models.tensors import TENSORS


@dataclass(frozen=True)
class ImportReport:
    """What `golfpack import` wrote.

    Attributes:
        source: path of the file that was read.
        source_sha256: of its bytes.
        checkpoint: path of the safetensors file that was written.
        checkpoint_bytes: its size.
        tensors: how many there are.
        notes: what was renamed, split, dropped or kept once.
        aliases: name left out -> name that holds the same tensor, for tensors without a family.
    """

    source: str
    source_sha256: str
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    checkpoint: str
    checkpoint_bytes: int
    tensors: int
    parameters: int
    notes: list[str]
    aliases: dict[str, str]
    schema_version: int = SCHEMA_VERSION


def import_checkpoint(
    path: Path,
    output: Path,
    settings: tuple[str, ...] = (),
    family: Family | None = None,
    *,
    force: bool = False,
) -> ImportReport:
    """Write a checkpoint as safetensors, every tensor once, in its own float type.

    Tensors that a family knows to be tied are kept once. Where no family is recognised, matrices that
    repeat another one, value for value, are left out; the file's metadata says which.

    Args:
        settings: "model.option=value".
        family: what `--model` says it is; None detects it.
        force: replace files that exist.

    Raises:
        UsageError: an unusable checkpoint, or a file to be written exists.
    """
    if path.is_file() and names_artifact(path):
        raise UsageError(f"{path} is an artifact, not a checkpoint", "use golfpack unpack")
    model_settings, rest = split_settings(settings)
    if rest:
        raise UsageError(f"--set {rest[0]!r} sets nothing here", "use --set model.OPTION=VALUE")
    check_writable(output, path, force=force)
    checkpoint = load_checkpoint(path, model_settings, family, TENSORS)
    aliases = _repeats(checkpoint) if checkpoint.family is TENSORS else {}
    kept = {n: w for n, w in checkpoint.weights.items() if n not in aliases}
    origin = {"family": checkpoint.family.name, "sha256": checkpoint.sha256, "aliases": aliases}
    tensors = {n: _stored(w, checkpoint.dtypes[n]) for n, w in kept.items()}
    size = write_checkpoint(output, tensors, checkpoint.config, origin)
    return ImportReport(
        source=str(path),
        source_sha256=checkpoint.sha256,
        family=checkpoint.family.name,
        config=checkpoint.config,
        assumed=checkpoint.assumed,
        checkpoint=str(output),
        checkpoint_bytes=size,
        tensors=len(tensors),
        parameters=sum(w.size for w in kept.values()),
        notes=_notes(checkpoint, aliases),
        aliases=aliases,
    )


def _repeats(checkpoint: Model) -> dict[str, str]:
    """Matrices that hold the same values as an earlier one -> its name.

    Constant matrices are left alone: two of them say nothing about each other.
    """
    first: dict[tuple[tuple[int, ...], bytes], str] = {}
    repeats = {}
    for name, w in checkpoint.weights.items():
        if w.ndim < 2 or w.size == 0 or not np.ptp(w):
            continue
        key = (w.shape, hashlib.sha256(np.ascontiguousarray(w).tobytes()).digest())
        if first.setdefault(key, name) != name:
            repeats[name] = first[key]
    return repeats


def _notes(checkpoint: Model, aliases: Mapping[str, str]) -> list[str]:
    notes = list(checkpoint.notes)
    notes += [f"{name} repeats {kept} and is kept once" for name, kept in aliases.items()]
    doubles = [n for n, dtype in checkpoint.dtypes.items() if dtype == "float64"]
    if doubles:
        notes.append(f"{len(doubles)} float64 tensors ({doubles[0]}, ...) rounded to float32")
    return notes


def _stored(w: np.ndarray, dtype: str) -> torch.Tensor:
    """A tensor in the float type it came in, but for float64: what golfpack reads is float32."""
    # Copied: arrays may be views into the file that was read, and two of them may share it.
    kept = "float32" if dtype == "float64" else dtype
    return torch.tensor(w).to(getattr(torch, kept))


def check_writable(output: Path, source: Path, *, force: bool) -> None:
    """Raise UsageError where a checkpoint or its config would replace a file unasked, or its source."""
    refuse_itself(output, source)
    for target in (output, _sidecar(output)):
        if target.exists() and not force:
            raise UsageError(f"{target} exists", "choose another --output, or add --force")


def _sidecar(output: Path) -> Path:
    return output.with_name(output.stem + ".config.json")


def write_checkpoint(
    output: Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> int:
    """Write safetensors, and the config beside them so that golfpack reads them again.

    Args:
        origin: where the tensors come from, for the metadata of the file.

    Returns:
        bytes of the safetensors file.
    """
    # Under one key: safetensors writes several in any order, and equal input is to give equal bytes.
    metadata = {"golfpack": json.dumps(dict(origin), sort_keys=True)}
    data = safetensors.torch.save(dict(tensors), metadata=metadata)
    write_atomically(output, data)
    write_atomically(_sidecar(output), json.dumps(dict(config), indent=1).encode())
    return len(data)
