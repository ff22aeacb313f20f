"""The header of ALPH checkpoints: JSON, in a binary file or as the whole of a legacy one.

Binary: the magic `ALPH`, the length of the header (uint32, little-endian), the header as UTF-8 JSON,
then the tensors. Legacy: one JSON object. Files are named `.json` in either format.
Source: thomasdavis/alpha2, `packages/train/src/checkpoint.ts`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golfpack.errors import UsageError

MAGIC = b"ALPH"
_START = len(MAGIC) + 4  # of the header


def is_binary(data: bytes) -> bool:
    """Whether a file's first bytes are those of the binary format."""
    return data[: len(MAGIC)] == MAGIC


def looks_like(data: bytes) -> bool:
    """Whether a file may be of either format: the legacy one is only known to be JSON."""
    return is_binary(data) or data[:1] == b"{"


def read_header(data: bytes, path: Path) -> tuple[dict[str, Any], memoryview]:
    """The header, and what comes behind it: the tensors, or nothing in a legacy file.

    Raises:
        UsageError: the file is truncated, or its header is no JSON object.
    """
    if not is_binary(data):
        return _parse(data, path), memoryview(b"")
    end = _START + int.from_bytes(data[len(MAGIC) : _START], "little")
    if len(data) < max(end, _START):
        raise UsageError(
            f"{path} is truncated: its header ends at byte {end:,}, the file at {len(data):,}",
            "copy or save the checkpoint again",
        )
    return _parse(data[_START:end], path), memoryview(data)[end:]


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} looks like an ALPH checkpoint, but its JSON cannot be read: {error}",
            "the file is truncated or damaged",
        ) from error
    if not isinstance(header, dict):
        raise UsageError(f"{path}: the ALPH header is not a JSON object", "the file is damaged")
    return header


def sub_object(header: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """An object inside the header; {} where it is left out or null.

    Raises:
        UsageError: it is something else.
    """
    value = header.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{path}: {key} is not a JSON object", "save the checkpoint again")
    return value
