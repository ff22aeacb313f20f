"""Reading float checkpoints: file -> family, config, spec and float32 weights.

Formats are told by content: `torch.save` files, safetensors, and the challenge's `.int8.ptz`
(zlib of a `torch.save` of int8 rows and scales; openai/parameter-golf, `train_gpt.py`,
`dequantize_state_dict_int8`). Nothing is ever unpickled beyond tensors and plain containers.
"""

import difflib
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models import detect, find_family
from golfpack.packer.ir import ModelSpec

# A challenge artifact is 16 MB and holds some 40 MB of int8; this only stops zlib bombs.
MAX_INFLATED_BYTES = 1 << 30
INT8_FORMAT = "int8_clean_per_row_v1"

_FORMATS_HINT = "golfpack reads torch.save state dicts (.pt), .safetensors and .int8.ptz files"
_DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.bfloat16, torch.float16)}
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, recognised and in memory.

    Attributes:
        family: name of the model family.
        config: complete, JSON-safe config of the family.
        spec: what the packer may know about the model.
        weights: float32 arrays by tensor name, in the order of `spec.tensors`.
        dtypes: the dtype each tensor had in the file, such as "bfloat16".
        sha256: of the file, hex.
        path: the file.
        assumed: config values that neither the shapes nor the user told: defaults taken on trust.
    """

    family: str
    config: dict[str, Any]
    spec: ModelSpec
    weights: dict[str, np.ndarray]
    dtypes: dict[str, str]
    sha256: str
    path: Path
    assumed: dict[str, Any]


def load_checkpoint(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    family: str | None = None,
) -> Checkpoint:
    """Read a checkpoint file and recognise its model.

    Config values that shapes cannot tell come from `overrides`, else from the sidecar file
    `<stem>.config.json` beside the checkpoint, else from the family's defaults.

    Args:
        path: the file.
        overrides: config values by field name, typed or as strings.
        family: name of the family to read it as; None detects it.

    Raises:
        UsageError: the file cannot be read, or is of no known or consistent model.
    """
    path = Path(path)
    data = _read_bytes(path)
    state = {name: _plain(name, t, path) for name, t in _parse(data, path).items()}
    found = detect(state, family, {**_sidecar(path), **(overrides or {})})
    spec = found.family.spec(found.config)
    return Checkpoint(
        family=found.family.name,
        config=found.config,
        spec=spec,
        weights={t.name: _to_numpy(t.name, state[t.name]) for t in spec.tensors},
        dtypes={t.name: str(state[t.name].dtype).removeprefix("torch.") for t in spec.tensors},
        sha256=hashlib.sha256(data).hexdigest(),
        path=path,
        assumed=found.assumed,
    )


def build_model(
    family: str, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> nn.Module:
    """The model with these weights: float32, on CPU, in eval mode, no gradients asked for."""
    model = find_family(family).build(config)
    # Copied: a module must not share memory with arrays its caller still holds.
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()}, assign=True)
    return model.requires_grad_(False)


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a checkpoint", f"name a file in it. {_FORMATS_HINT}"
        )
    if not path.exists():
        raise UsageError(f"there is no file {path}", _near_files(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        raise UsageError(f"{path} is empty", "was the program that wrote it interrupted?")
    return data


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"{path.parent} holds {', '.join(near or names[:5]) or 'no files'}"


def _parse(data: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, whatever the format."""
    if data[:4] == b"PK\x03\x04" or data[:2] == b"\x80\x02":  # zip, or torch.save before 1.6
        return _unwrap(_torch_load(data, path), path)
    if data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0:  # a zlib header (RFC 1950)
        return _unwrap(_torch_load(_inflate(data, path), path), path)
    if data[8:9] == b"{":
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise UsageError(
                f"{path} looks like safetensors but cannot be read: {error}",
                "the file is truncated or damaged",
            ) from error
    kind = "a text file" if _is_text(data[:1024]) else "of an unknown format"
    raise UsageError(f"{path} is {kind}, not a checkpoint", _FORMATS_HINT)


def _is_text(head: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def _inflate(data: bytes, path: Path) -> bytes:
    inflater = zlib.decompressobj()
    try:
        out = inflater.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise UsageError(
            f"{path} cannot be decompressed: {error}", "the file is damaged"
        ) from error
    if inflater.unconsumed_tail:
        raise UsageError(f"{path} decompresses to more than {MAX_INFLATED_BYTES} bytes")
    if not inflater.eof:
        raise UsageError(f"{path} is truncated: its compressed data does not end")
    return out


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


def _unwrap(saved: object, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside what `torch.save` was given, without wrappers' name prefixes."""
    if isinstance(saved, dict) and "__quant_format__" in saved:
        return _dequantise(saved, path)
    for key in ("model", "state_dict"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
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
        state[_PREFIXES.sub("", str(name))] = tensor
    if len(state) != len(saved):
        raise UsageError(f"{path}: tensors share a name once module. and _orig_mod. are removed")
    return state


def _dequantise(saved: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Weights of the challenge's int8 export, rounded exactly as its own reader rounds them."""
    if saved["__quant_format__"] != INT8_FORMAT:
        raise UsageError(
            f"{path} has the unknown int8 format {saved['__quant_format__']!r}",
            f"this version reads {INT8_FORMAT}",
        )
    try:
        state = {}
        for name, q in saved["quantized"].items():
            scale = saved["scales"][name].float()
            per_row = scale.view(-1, *[1] * (q.ndim - 1)) if scale.ndim else scale
            state[name] = (q.float() * per_row).to(_DTYPES[saved["dtypes"][name]])
        original = saved.get("passthrough_orig_dtypes", {})
        for name, tensor in saved["passthrough"].items():
            state[name] = tensor.to(_DTYPES[original[name]] if name in original else tensor.dtype)
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"{path}: its {INT8_FORMAT} tables do not fit each other ({error})",
            "export the model again",
        ) from error
    return state


def _plain(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """The tensor itself, if it is dense, floating and really stored in full."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise UsageError(
            f"{path}: tensor {name!r} is not a dense floating-point tensor ({tensor.dtype})",
            "golfpack compiles float checkpoints; convert it first",
        )
    # An expanded view costs nothing in the file and unbounded memory when copied.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UsageError(f"{path}: tensor {name!r} claims more elements than are stored")
    return tensor


def _to_numpy(name: str, tensor: torch.Tensor) -> np.ndarray:
    array = tensor.to(torch.float32).contiguous().numpy()
    if not np.isfinite(array).all():
        raise UsageError(
            f"tensor {name!r} holds {int((~np.isfinite(array)).sum())} values that are not finite",
            "the training run diverged; use an earlier checkpoint",
        )
    return array


def _sidecar(path: Path) -> dict[str, Any]:
    """Config overrides from `<stem>.config.json` beside the checkpoint, if it is there."""
    stem = path.name.removesuffix(path.suffix).removesuffix(".int8")
    sidecar = path.with_name(f"{stem}.config.json")
    if not sidecar.exists():
        return {}
    try:
        config = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{sidecar} is not valid JSON: {error}", "fix or delete it") from error
    if not isinstance(config, dict):
        raise UsageError(f"{sidecar} must hold one JSON object", 'such as {"rope_base": 10000.0}')
    return config
