"""`golfpack inspect` and `golfpack unpack`: what is in a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golfpack.artifact import model_of, names_artifact, open_pair
from golfpack.base.convert import from_json
from golfpack.base.documents import SCHEMA_VERSION, read_json
from golfpack.errors import UsageError
from golfpack.inspect.importing import check_writable, write_checkpoint
from golfpack.measure.tensor_errors import excess_kurtosis
from golfpack.measure.tensors import Known, TensorReport, tensor_reports
from golfpack.models.base import Family
from golfpack.models.checkpoint import sidecar_path
from golfpack.models.folder import checkpoint_bytes
from golfpack.models.model import Model
from golfpack.models.restore import check_dtype, restored, source_of
from golfpack.packer.format.container import TOKENIZER_STREAM
from golfpack.packer.format.loader import is_artifact, load


@dataclass(frozen=True)
class InspectReport:
    """What `golfpack inspect` sees in an artifact or a checkpoint.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        bytes: its size.
        streams: coded bytes of every stream of an artifact, and "header", all that is no stream.
        tensors: a row each, in stored order.
        source: how the checkpoint had its tensors, where that is not as the family's module has them in
            float32: form, type, dtype, dtypes, tokens (docs/format.md).
        errors: where the tensors' errors come from: a float checkpoint, or the build's report beside
            the artifact; None where neither is known.
        notes: why a report beside the artifact was not used.
    """

    path: str
    sha256: str
    bytes: int
    family: str
    config: dict[str, Any]
    assumed: dict[str, Any]
    parameters: int
    streams: dict[str, int]
    tensors: list[TensorReport]
    errors: str | None = None
    notes: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class UnpackReport:
    """What `golfpack unpack` wrote.

    Attributes:
        artifact: path of the artifact.
        artifact_sha256: of its bytes.
        output: the file of weights; with `--hf` the folder that transformers loads.
        model_type: of its config.json; None without `--hf`.
        dtype: of the matrices.
        files: name -> bytes, of all that was written.
        tensors: how many there are.
        notes: what is missing.
    """

    artifact: str
    artifact_sha256: str
    output: str
    model_type: str | None
    dtype: str
    files: dict[str, int]
    tensors: int
    notes: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class _Rows:
    """What is read of a build's report."""

    tensors: list[TensorReport]


def inspect(
    path: Path,
    against: Path | None = None,
    settings: tuple[str, ...] = (),
    family: Family | None = None,
) -> InspectReport:
    """What an artifact or a checkpoint holds, tensor by tensor.

    Args:
        against: the float checkpoint an artifact was built from, for the errors; without it they are
            taken from the build's report, where that lies beside the artifact.
        settings: "model.option=value" of the checkpoint; an artifact carries its own.
        family: what `--model` says the model is; None takes an artifact's word, or detects it.
    """
    if against is not None and not names_artifact(path):
        raise UsageError(f"{path} is not an artifact", "--float is for artifacts; leave it out")
    loaded, original = open_pair(path, against, settings, family)
    streams: dict[str, int] = {}
    notes: list[str] = []
    errors = None if against is None else str(against)
    if is_artifact(path):
        artifact = load(path)
        streams = {n: len(data) for n, data in artifact.container.streams.items()}
        streams["header"] = artifact.container.overhead - streams.get(TOKENIZER_STREAM, 0)
        known = Known(
            {t.name: t.block for t in loaded.spec.tensors},
            None if original is None else original.weights,
        )
        rows = tensor_reports(artifact, known)
        beside = path.with_suffix(".report.json")
        if against is None and beside.is_file():
            rows, note = _with_report(rows, beside, artifact.container.sha256)
            errors = str(beside) if note is None else None
            notes += [] if note is None else [note]
    else:
        rows = _checkpoint_rows(loaded)
    return InspectReport(
        path=str(path),
        sha256=loaded.sha256,
        bytes=checkpoint_bytes(path),
        family=loaded.family.name,
        config=loaded.config,
        assumed=loaded.assumed,
        parameters=sum(w.size for w in loaded.weights.values()),
        streams=streams,
        tensors=rows,
        errors=errors,
        notes=notes,
        source=dict(loaded.spec.source),
    )


def _with_report(
    rows: list[TensorReport], path: Path, sha256: str
) -> tuple[list[TensorReport], str | None]:
    """The rows as the build's report has them, errors included; or as they are, and why."""
    try:
        data = read_json(path, "build again to write it anew")
        if data.get("artifact_sha256") != sha256:
            return rows, f"{path} is the report of another artifact, so no errors are shown"
        found = from_json(_Rows, data, str(path)).tensors
    except UsageError as e:
        return rows, f"no errors are shown: {e.message}"
    if [(r.name, r.shape, r.bytes) for r in found] != [(r.name, r.shape, r.bytes) for r in rows]:
        return rows, f"{path} does not describe this artifact, so no errors are shown"
    return found, None


def unpack(
    path: Path, output: Path, *, dtype: str = "float32", force: bool = False
) -> UnpackReport:
    """Write an artifact's weights as safetensors, as its checkpoint had them.

    Names, layouts and groups are the checkpoint's. The model's family and config go into the file's
    metadata and a sidecar, so that the result is a checkpoint golfpack reads again.

    Args:
        dtype: of all tensors; "source" for those of the checkpoint, to which weights are rounded.
        force: replace files that exist.

    Raises:
        UsageError: not an artifact, or a file to be written exists.
        CorruptError: a damaged artifact.
    """
    if path.is_file() and not names_artifact(path):
        raise UsageError(f"{path}: this is not a .golf artifact; unpack takes one", "see `inspect`")
    check_writable(output, path, force=force)
    check_dtype(dtype)
    artifact = load(path)
    model = model_of(artifact, path)
    tensors = {n: t.contiguous() for n, t in restored(model, dtype).items()}
    origin = {"family": artifact.family, "sha256": artifact.container.sha256}
    write_checkpoint(output, tensors, model.config, origin)
    kind = source_of(model).main_dtype if dtype == "source" else dtype
    return UnpackReport(
        artifact=str(path),
        artifact_sha256=artifact.container.sha256,
        output=str(output),
        model_type=None,
        dtype=str(kind).removeprefix("torch."),
        files={p.name: p.stat().st_size for p in (output, sidecar_path(output))},
        tensors=len(tensors),
    )


def _checkpoint_rows(loaded: Model) -> list[TensorReport]:
    return [
        TensorReport(
            t.name, t.role, t.shape, "f32", 4 * t.numel, 0, 32.0, None, None, block=t.block,
            kurtosis=excess_kurtosis(loaded.weights[t.name]),
        )
        for t in loaded.spec.tensors
    ]  # fmt: skip
