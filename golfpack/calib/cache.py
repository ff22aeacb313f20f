"""Calibration results on disk, keyed by everything they depend on.

The key is the hash of the model, the tokens and the settings, so a hit is the same result to the bit
and nothing ever has to be invalidated by hand.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import torch

import golfpack
from golfpack.calib import collect, device, sources, stats
from golfpack.calib.sources import CalibTokens
from golfpack.errors import UsageError
from golfpack.spec import CalibStats, Use


def _version(*modules: ModuleType) -> str:
    """The hash of their code, and of what computes the networks that they run."""
    networks = sorted((Path(golfpack.__path__[0]) / "models").rglob("*.py"))
    files = [Path(str(module.__file__)) for module in modules]
    return hashlib.sha256(b"".join(file.read_bytes() for file in [*files, *networks])).hexdigest()


# What a stored quantity means is what this code makes of it: any change of it is another key.
STATS_VERSION = _version(collect, device, stats)
TEXT_VERSION = _version(sources)
_ARRAYS = ("hessian", "row_weight", "input_abs", "output_cov", "radial")

T = TypeVar("T")


def cache_folder() -> Path:
    """$GOLFPACK_CACHE, else the user's cache folder."""
    base = os.environ.get("GOLFPACK_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "golfpack"


def cached(
    folder: Path | None, inputs: dict[str, Any], make: Callable[[], CalibStats]
) -> CalibStats:
    """The stored result for these JSON-safe `inputs`, or make it and store it. None: do not cache.

    Raises:
        UsageError: the folder cannot be written, which is found out before anything is made.
    """
    return _kept(folder, "calib", {**inputs, "version": STATS_VERSION}, _load, make, _save)


def cached_text(
    folder: Path | None, inputs: dict[str, Any], make: Callable[[], CalibTokens]
) -> CalibTokens:
    """The same for text that the model wrote, which depends on torch's rounding as well.

    Raises:
        UsageError: the folder cannot be written.
    """
    version = [TEXT_VERSION, torch.__version__]
    return _kept(folder, "text", {**inputs, "version": version}, _load_text, make, _save_text)


def _kept(
    folder: Path | None,
    kind: str,
    inputs: dict[str, Any],
    load: Callable[[Path], T],
    make: Callable[[], T],
    save: Callable[[T, IO[bytes]], None],
) -> T:
    if folder is None:
        return make()
    text = json.dumps(inputs, sort_keys=True)
    path = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
    try:
        return load(path)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass  # not there, or half a file from a full disk: make it, and replace it
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    made = make()
    with _writing(folder):
        _store(lambda file: save(made, file), path)
    return made


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UsageError(
            f"cannot write to the calibration cache {folder}: {e.strerror or e}",
            "use --no-cache, or set GOLFPACK_CACHE to another folder",
        ) from e


def _store(save: Callable[[IO[bytes]], None], path: Path) -> None:
    """Write a result; the file appears complete or not at all."""
    # Straight to disk: a large network's statistics should not stand in memory twice.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            save(file)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _save(made: CalibStats, file: IO[bytes]) -> None:
    arrays: dict[str, np.ndarray] = {}
    meta: dict[str, Any] = {
        "tokens": made.tokens,
        "source": made.source,
        "tokens_sha256": made.tokens_sha256,
        "uses": {name: [u.kind for u in uses] for name, uses in made.uses.items()},
        "vectors": list(made.vector_fisher),
    }
    for name, uses in made.uses.items():
        for i, use in enumerate(uses):
            for key in _ARRAYS:
                value = getattr(use, key)
                if value is not None:
                    arrays[f"{name}:{i}:{key}"] = value
    arrays |= {f"{name}:fisher": v for name, v in made.vector_fisher.items()}
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(file, allow_pickle=False, **arrays)


def _save_text(made: CalibTokens, file: IO[bytes]) -> None:
    source = np.frombuffer(made.source.encode(), np.uint8)
    np.savez(file, allow_pickle=False, sequences=made.sequences, source=source)


def _load_text(path: Path) -> CalibTokens:
    with np.load(path, allow_pickle=False) as data:
        return CalibTokens(data["sequences"], data["source"].tobytes().decode())


def _load(path: Path) -> CalibStats:
    with np.load(path, allow_pickle=False) as data:
        arrays = {key: data[key] for key in data.files}
    meta = json.loads(arrays["meta"].tobytes())
    uses = {
        name: tuple(
            Use(kind, *(arrays.get(f"{name}:{i}:{key}") for key in _ARRAYS))  # type: ignore[arg-type]
            for i, kind in enumerate(kinds)
        )
        for name, kinds in meta["uses"].items()
    }
    fisher = {name: arrays[f"{name}:fisher"] for name in meta["vectors"]}
    return CalibStats(uses, fisher, meta["tokens"], meta["source"], meta["tokens_sha256"])
