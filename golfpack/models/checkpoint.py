"""Reading float checkpoints: file -> family, config, spec and float32 weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.base.documents import read_json
from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.detect import Detected, detect
from golfpack.models.files import Stored, parse, peek, read_bytes
from golfpack.models.folder import AGAIN, CheckpointFiles, check_shards, checkpoint_files
from golfpack.models.model import Model
from golfpack.models.source import find_source
from golfpack.spec import ModelSpec


def load_checkpoint(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    family: Family | None = None,
    fallback: Family | None = None,
    tokenizer: Path | None = None,
) -> Model:
    """Read a checkpoint and recognise its model.

    Config values that shapes cannot tell come from `overrides`, else from the sidecar file
    `<stem>.config.json` beside the checkpoint, else from the config inside the file or transformers'
    `config.json` beside it or in its folder, else from the family's defaults.

    Args:
        path: the file, the folder that transformers wrote, or the index of its shards.
        overrides: config values by field name, typed or as strings.
        family: the family to read it as; None detects it.
        fallback: the family to read it as where none is recognised; None: an error.
        tokenizer: the model's, for options that depend on it.

    Raises:
        UsageError: the file cannot be read, or is of no known or consistent model.
    """
    path = Path(path)
    files = checkpoint_files(path)
    stored, sha256 = _read(files)
    found = _recognise(stored, files, overrides, family, fallback, tokenizer)
    tensors = {t.name: _floating(t.name, found.state[t.name], path) for t in found.spec.tensors}
    dtypes = {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items()}
    told = _told_config(stored, files)
    source = find_source(stored.tensors, told, found.family, found.config, found.spec, dtypes)
    return Model(
        family=found.family,
        config=found.config,
        spec=replace(found.spec, source=source.compact()),
        weights={name: _to_numpy(name, t) for name, t in tensors.items()},
        dtypes=dtypes,
        sha256=sha256,
        path=path,
        assumed=found.assumed,
        notes=found.notes,
    )


def peek_spec(
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    family: Family | None = None,
    fallback: Family | None = None,
    tokenizer: Path | None = None,
) -> ModelSpec | None:
    """The spec of a large checkpoint without reading its weights; None where it must be read for that.

    Args:
        overrides, family, fallback, tokenizer: as for `load_checkpoint`.

    Raises:
        UsageError: the tensors are of no known or consistent model.
    """
    files = checkpoint_files(path)
    stored = peek(files)
    if stored is None:
        return None
    return _recognise(stored, files, overrides, family, fallback, tokenizer).spec


def _read(files: CheckpointFiles) -> tuple[Stored, str]:
    """What is stored, and the sha256 of all files of weights, one after the other, hex."""
    digest, tensors, config = hashlib.sha256(), dict[str, torch.Tensor](), {}
    for path in files.weights:
        data = read_bytes(path)
        digest.update(data)
        stored = parse(data, path)
        if both := sorted(stored.tensors.keys() & tensors):
            raise UsageError(f"{path}: tensor {both[0]!r} is in another shard as well", AGAIN)
        tensors |= stored.tensors
        config = stored.config
    check_shards(files, tensors)
    return Stored(tensors, config), digest.hexdigest()


def _recognise(
    stored: Stored,
    files: CheckpointFiles,
    overrides: Mapping[str, Any] | None,
    family: Family | None,
    fallback: Family | None,
    tokenizer: Path | None,
) -> Detected:
    path = files.main
    state = {name: _stored_in_full(name, t, path) for name, t in stored.tensors.items()}
    config = _told_config(stored, files)
    return detect(state, family, overrides, config, fallback, read_sidecar(path), tokenizer)


def _told_config(stored: Stored, files: CheckpointFiles) -> Mapping[str, Any]:
    """The config that came with the tensors, by its trainer's names."""
    return stored.config or _transformers_config(files.main)


def _stored_in_full(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """The tensor itself, if it is dense and really stored in full."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise UsageError(
            f"{path}: tensor {name!r} is not a dense tensor", "convert it to dense floats first"
        )
    # An expanded view costs nothing in the file and unbounded memory when copied.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UsageError(f"{path}: tensor {name!r} claims more elements than are stored")
    return tensor


def _floating(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise UsageError(
            f"{path}: tensor {name!r} is not a floating-point tensor ({tensor.dtype})",
            "golfpack compiles float checkpoints; convert it first",
        )
    return tensor


def _to_numpy(name: str, tensor: torch.Tensor) -> np.ndarray:
    array = tensor.to(torch.float32).contiguous().numpy()
    if not np.isfinite(array).all():
        if bool(tensor.isfinite().all()):
            raise UsageError(
                f"tensor {name!r} has values up to {float(tensor.abs().max()):.3g}, beyond float32",
                "golfpack compiles float32 at most; scale it first",
            )
        raise UsageError(
            f"tensor {name!r} holds {int((~np.isfinite(array)).sum())} values that are not finite",
            "the training run diverged; use an earlier checkpoint",
        )
    return array


def sidecar_path(path: Path) -> Path:
    """Where a checkpoint's config stands beside it, or in its folder: `<stem>.config.json`."""
    main = checkpoint_files(path).main
    name = main.name.removesuffix(".index.json")
    stem = name.removesuffix(Path(name).suffix).removesuffix(".int8")
    return main.with_name(f"{stem}.config.json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """Config overrides from the file beside the checkpoint, if it is there."""
    return _json_object(sidecar_path(path))


def _transformers_config(path: Path) -> dict[str, Any]:
    """What transformers wrote beside the checkpoint; {} where no such file is there."""
    config = _json_object(path.with_name("config.json"))
    return config if "model_type" in config else {}  # other programs have config.json files too


def _json_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it does not exist."""
    return read_json(path, "fix or delete it") if path.exists() else {}
