"""`golfpack export`: an artifact and the decoder that reads it without golfpack, in one folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golfpack.artifact import model_of, names_artifact
from golfpack.base.documents import SCHEMA_VERSION
from golfpack.base.files import make_folder, write_atomically
from golfpack.base.progress import Notify
from golfpack.errors import CorruptError, UsageError
from golfpack.export.decoder import packed, readable, uses
from golfpack.models import find_family
from golfpack.models.base import Family
from golfpack.packer.format.loader import Artifact, load

ARTIFACT = "model.golf"
DECODER = "golf_decode.py"


@dataclass(frozen=True)
class ExportReport:
    """What `golfpack export` wrote.

    Attributes:
        out: the folder.
        artifact: the artifact's copy in it.
        artifact_sha256: of its bytes.
        artifact_bytes: its size.
        decoder: the Python file beside it.
        decoder_bytes: its size.
        minified: whether names were shortened and the source packed.
        packages: what the decoder imports beyond numpy and Python's own library.
        tensors: names that `load` gives, tied ones under each of theirs.
    """

    out: str
    artifact: str
    artifact_sha256: str
    artifact_bytes: int
    decoder: str
    decoder_bytes: int
    minified: bool
    packages: list[str]
    tensors: int
    schema_version: int = SCHEMA_VERSION


def export(
    path: Path,
    out: Path,
    notify: Notify,
    *,
    minified: bool = False,
    family: Family | None = None,
    force: bool = False,
) -> ExportReport:
    """Write `model.golf` and `golf_decode.py`, once the decoder has given every bit as golfpack does.

    Args:
        path: the artifact.
        out: the folder; it is made where it is missing.
        minified: the decoder in as few bytes as possible.
        family: what `--model` says it is.
        force: replace files that exist.

    Raises:
        UsageError: not an artifact, or a file exists. CorruptError: a damaged artifact.
    """
    if path.is_file() and not names_artifact(path):
        raise UsageError(
            f"{path}: this is not a .golf artifact; export takes one", "golfpack build makes one"
        )
    targets = out / ARTIFACT, out / DECODER
    for target in targets:
        if target.exists() and not force:
            raise UsageError(f"{target} exists", "choose another --out, or add --force")
    notify("read", 0, 0, path.name)
    artifact = load(path)
    ties = ties_of(artifact, path, family)
    notify("decoder", 0, 0, DECODER)
    code = packed(artifact, ties) if minified else readable(artifact, ties).encode()
    notify("check", 0, 0, DECODER)
    tensors = check(code, path, under_all_names(artifact.weights(), ties))
    blob = path.read_bytes()
    make_folder(out)
    write_atomically(targets[0], blob)
    write_atomically(targets[1], code)
    return ExportReport(
        out=str(out),
        artifact=str(targets[0]),
        artifact_sha256=artifact.container.sha256,
        artifact_bytes=len(blob),
        decoder=str(targets[1]),
        decoder_bytes=len(code),
        minified=minified,
        packages=uses(artifact).packages,
        tensors=tensors,
    )


def ties_of(artifact: Artifact, path: Path, family: Family | None = None) -> dict[str, str]:
    """Further names of the artifact's tensors, as its family has them -> their names in it.

    Raises:
        UsageError: the family is another than the artifact's.
    """
    if family is not None and family.name != artifact.family:
        raise UsageError(
            f"{path} holds a model of family {artifact.family}, not {family.name}",
            "leave --model out: an artifact says what it is",
        )
    aliases = (family or find_family(artifact.family)).aliases
    if aliases is None:
        return {}
    return dict(aliases(model_of(artifact, path, family).config))


def under_all_names(
    weights: Mapping[str, np.ndarray], ties: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """An artifact's weights, tied ones under each of their names, as a decoder gives them."""
    tied = {a: weights[n] for a, n in ties.items() if a not in weights and n in weights}
    return {**weights, **tied}


def check(code: bytes, path: Path, expected: Mapping[str, np.ndarray]) -> int:
    """Decode an artifact with a decoder's code and compare every bit; returns the number of names.

    Raises:
        CorruptError: anything differs.
    """
    space = {"__name__": "golf_decode"}
    exec(compile(code, DECODER, "exec"), space)
    found: dict[str, np.ndarray] = space["load"](path)  # type: ignore[operator]
    if list(found) != list(expected):
        raise CorruptError("the decoder made for this artifact gives other names", None)
    for name, w in expected.items():
        got = found[name]
        same = got.dtype == np.float32 and got.shape == w.shape and got.tobytes() == w.tobytes()
        if not same:
            raise CorruptError(f"the decoder made for this artifact differs in {name!r}", None)
    return len(found)
