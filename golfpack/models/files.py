"""Reading checkpoint files: bytes -> tensors by name, and the config stored with them.

Formats are told by content: `torch.save` files, safetensors, ALPH (see `alph.file`), llama2.c (see
`llama2c`), either of the first two compressed, and the challenge's quantized exports (see `exports`).
Nothing is ever unpickled beyond tensors and plain containers.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from golfpack.base.files import ARTIFACT_MAGIC
from golfpack.data import alph_header
from golfpack.errors import UsageError, unreadable
from golfpack.models.alph import file as alph_file
from golfpack.models.exports import dequantize, inflate
from golfpack.models.folder import CheckpointFiles
from golfpack.models.llama import llama2c

# From this size on, a checkpoint is looked at before it is read.
WORTH_A_PEEK = 1 << 28
# Under which trainers put the weights.
_WRAPPERS = (
    "model", "state_dict", "model_state_dict", "module", "params", "ema", "model_ema", "ema_state_dict",
)  # fmt: skip

_FORMATS_HINT = (
    "golfpack reads torch.save state dicts (.pt) and .safetensors, compressed or not, the records' "
    "exports (.ptz), ALPH and llama2.c files"
)
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises UsageError when it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if not data:
        raise UsageError(f"{path} is empty", "was the program that wrote it interrupted?")
    return data


def already_packed(path: Path) -> UsageError:
    """The error for an artifact where a checkpoint is wanted."""
    return UsageError(
        f"{path} is already an artifact, not a checkpoint",
        "give the checkpoint it was built from, or write its weights as one with "
        f"golfpack unpack {path}",
    )


class Stored(NamedTuple):
    """What a file holds: tensors by name, and the model's config by its trainer's names, or {}."""

    tensors: Mapping[str, torch.Tensor]
    config: Mapping[str, Any]


def parse(data: bytes, path: Path) -> Stored:
    """Tensors and config, whatever the format. Raises UsageError when they cannot be read."""
    if data[:4] == b"PK\x03\x04" or data[:2] == b"\x80\x02":  # zip, or torch.save before 1.6
        return _unwrap(_torch_load(data, path), path)
    if llama2c.looks_like(data):
        return Stored(*llama2c.read_llama2c(data, path))
    if alph_header.looks_like(data):
        alph = alph_file.read_alph(data, path)
        return Stored(alph.tensors, alph.config)
    if data[4:9] == b"\0\0\0\0{":  # a header of less than 4 GiB, which is JSON
        try:
            return Stored(safetensors.torch.load(data), {})
        except safetensors.SafetensorError as error:
            raise UsageError(
                f"{path} looks like safetensors but cannot be read: {error}",
                "the file is truncated or damaged",
            ) from error
    if data.startswith(ARTIFACT_MAGIC):
        raise already_packed(path)
    if (inner := inflate(data, path)) is not None:
        if inner[:4] != b"PK\x03\x04" and inner[:2] != b"\x80\x02" and inner[4:9] != b"\0\0\0\0{":
            raise UsageError(f"{path} is a compressed file of something else", _FORMATS_HINT)
        return parse(inner, path)
    kind = "a text file" if _is_text(data[:1024]) else "of an unknown format"
    raise UsageError(f"{path} is {kind}, not a checkpoint", _FORMATS_HINT)


def peek(files: CheckpointFiles) -> Stored | None:
    """Tensors and config of a large checkpoint whose tensors are mapped, not read, until they are used.

    None where it is small, cannot be mapped, or is not as it should be: `parse` reads it, or says
    what is wrong with it.
    """
    if not all(path.is_file() for path in files.weights) or files.size < WORTH_A_PEEK:
        return None
    parts = [_mapped(path) for path in files.weights]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    return Stored({n: t for part in found for n, t in part.tensors.items()}, found[-1].config)


def _mapped(path: Path) -> Stored | None:
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[:4] == b"PK\x03\x04":
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return _unwrap(saved, path)
        if head[4:] == b"\0\0\0\0{":
            with safetensors.safe_open(path, "pt") as tensors:
                return Stored({name: tensors.get_tensor(name) for name in tensors.keys()}, {})  # noqa: SIM118
    except Exception:  # as in `_torch_load`: damaged input raises nearly anything
        return None
    return None


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def _torch_load(data: bytes, path: Path) -> object:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged input makes torch.load raise nearly anything
        if "Weights only load failed" in str(error):
            what = re.search(r"GLOBAL (\S+)", str(error))
            holds = f" ({what[1]})" if what else ""
            raise UsageError(
                f"{path} holds Python objects beyond tensors{holds}, or is damaged; it was not run",
                "save only the weights: torch.save(model.state_dict(), path)",
            ) from error
        raise UsageError(
            f"{path} is not a readable torch.save file", "it is truncated or damaged"
        ) from error


def _unwrap(saved: object, path: Path) -> Stored:
    """The state dict inside what `torch.save` was given, without wrappers' name prefixes."""
    config: dict[str, Any] = {}
    while isinstance(saved, dict):
        if (floats := dequantize(saved, path)) is not None:
            return Stored(floats, config)
        inner = [k for k in _WRAPPERS if isinstance(saved.get(k), dict)]
        if len(inner) > 1:
            raise UsageError(
                f"{path} holds weights under {' and '.join(inner)}",
                f"save the ones you mean: torch.save(saved[{inner[0]!r}], path)",
            )
        if not inner:
            break
        config = config or _stored_config(saved)
        saved = saved[inner[0]]
    if not isinstance(saved, dict) or not saved:
        raise UsageError(
            f"{path} holds a {type(saved).__name__} without tensors, not a state dict",
            _FORMATS_HINT,
        )
    state = {}
    for name, tensor in saved.items():
        if not isinstance(tensor, torch.Tensor):
            raise UsageError(
                f"{path}: entry {name!r} is a {type(tensor).__name__}, not a tensor",
                'save only the weights, or put them under the key "model" or "state_dict"',
            )
        # A state dict of named_parameters() holds parameters, which numpy does not take.
        state[_PREFIXES.sub("", str(name))] = tensor.detach()
    if len(state) != len(saved):
        raise UsageError(f"{path}: tensors share a name once module. and _orig_mod. are removed")
    return Stored(state, config)


def _stored_config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The config beside the weights, under the keys that trainers use; {} where there is none."""
    for key in ("model_args", "config"):
        if isinstance(saved.get(key), dict):
            return saved[key]
    return {}
