"""The tensors of ALPH checkpoints, binary and legacy (see `data.alph_header`).

Binary: the header lists `tensors` as {name, shape, elements}: `p.NAME` are parameters, `o.NAME` the
optimiser's moments. Behind it they follow as float32, little-endian, in that order, with nothing
between them. Legacy: `params` are {name: {shape, data}}. Both have `modelConfig`.
Source: thomasdavis/alpha2, `packages/train/src/checkpoint.ts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golfpack.data.alph_header import is_binary, read_header, sub_object
from golfpack.errors import UsageError

_PARAMETER, _OPTIMISER = "p.", "o."
# Beyond these a header is hostile; they keep products of sizes printable.
_MAX_DIMS, _MAX_SIZE = 8, 1 << 40


@dataclass(frozen=True, eq=False)
class AlphFile:
    """What an ALPH checkpoint holds, without the optimiser's state.

    Attributes:
        tensors: parameters by the trainer's names, float32.
        config: `modelConfig`, by the trainer's names.
    """

    tensors: dict[str, torch.Tensor]
    config: Mapping[str, Any]


def read_alph(data: bytes, path: Path) -> AlphFile:
    """Parse an ALPH checkpoint, binary or legacy JSON.

    Args:
        data: the whole file.
        path: where it came from, for messages.

    Raises:
        UsageError: the file is truncated, has bytes left over, or contradicts itself.
    """
    header, payload = read_header(data, path)
    read = _binary_tensors if is_binary(data) else _json_tensors
    return AlphFile(read(header, payload, path), sub_object(header, "modelConfig", path))


def _binary_tensors(
    header: Mapping[str, Any], payload: memoryview, path: Path
) -> dict[str, torch.Tensor]:
    entries = header.get("tensors")
    if not isinstance(entries, list):
        raise UsageError(f"{path}: the ALPH header lists no tensors", "save the checkpoint again")
    sized = [_entry(entry, path) for entry in entries]
    promised = 4 * sum(prod(shape) for _, shape in sized)
    if len(payload) != promised:
        state = "is truncated" if len(payload) < promised else "has bytes left over"
        raise UsageError(
            f"{path} {state}: {len(payload):,} bytes of tensors, but its header promises "
            f"{promised:,}",
            "copy or save the checkpoint again",
        )
    tensors: dict[str, torch.Tensor] = {}
    start = 0
    for name, shape in sized:
        stop = start + 4 * prod(shape)
        if name.startswith(_PARAMETER):
            # Copied: the tensors must not hold on to the optimiser's part of the file.
            values = np.frombuffer(payload[start:stop], "<f4").astype(np.float32)
            _add(tensors, name.removeprefix(_PARAMETER), values.reshape(shape), path)
        start = stop
    return tensors


def _entry(entry: object, path: Path) -> tuple[str, tuple[int, ...]]:
    """(name, shape) of a tensor in the header, once it is known to make sense."""
    fields = entry if isinstance(entry, dict) else {}
    name = fields.get("name")
    if not isinstance(name, str) or not name.startswith((_PARAMETER, _OPTIMISER)):
        raise UsageError(
            f"{path}: the ALPH header has a tensor entry {repr(entry)[:80]}, which names neither a "
            "parameter (p.) nor a moment of the optimiser (o.)",
            "save the checkpoint again",
        )
    shape = _shape(name, fields.get("shape"), path)
    if fields.get("elements") != prod(shape):
        raise UsageError(
            f"{path}: tensor {name!r} has shape {shape}, which are {prod(shape):,} elements, but "
            f"its header says {repr(fields.get('elements'))[:40]}",
            "save the checkpoint again",
        )
    return name, shape


def _json_tensors(
    header: Mapping[str, Any], _payload: memoryview, path: Path
) -> dict[str, torch.Tensor]:
    params = header.get("params")
    if not isinstance(params, dict):
        raise UsageError(
            f'{path} is a JSON file without "params", not a checkpoint',
            "a legacy ALPH checkpoint has params, modelConfig and tokenizerArtifacts",
        )
    tensors: dict[str, torch.Tensor] = {}
    for name, entry in params.items():
        fields = entry if isinstance(entry, dict) else {}
        shape = _shape(name, fields.get("shape"), path)
        try:
            values = np.asarray(fields.get("data"), np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{path}: tensor {name!r} has data that are not numbers", "save it again"
            ) from error
        if values.shape != (prod(shape),):
            raise UsageError(
                f"{path}: tensor {name!r} has shape {shape}, which are {prod(shape):,} elements, "
                f"but {values.size:,} are stored",
                "save the checkpoint again",
            )
        _add(tensors, name, values.astype(np.float32).reshape(shape), path)
    return tensors


def _shape(name: str, shape: object, path: Path) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMS
        or not all(type(n) is int and 0 < n <= _MAX_SIZE for n in shape)
    ):
        raise UsageError(
            f"{path}: tensor {name!r} has the impossible shape {repr(shape)[:80]}",
            "save the checkpoint again",
        )
    return tuple(shape)


def _add(tensors: dict[str, torch.Tensor], name: str, values: np.ndarray, path: Path) -> None:
    if name in tensors:
        raise UsageError(f"{path} holds the tensor {name!r} twice", "save the checkpoint again")
    tensors[name] = torch.from_numpy(values)
