"""`golfpack inspect` and `golfpack unpack`: what is in a file."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from golfpack.api.models import LoadedModel, check_against_family, names_artifact, open_pair
from golfpack.data.shards import write_atomically
from golfpack.errors import UsageError
from golfpack.models import find_family
from golfpack.packer.loader import is_artifact, load
from golfpack.report.reports import InspectReport
from golfpack.report.tensors import TensorReport, tensor_reports


def inspect(
    path: Path, against: Path | None = None, settings: tuple[str, ...] = ()
) -> InspectReport:
    """What an artifact or a checkpoint holds, tensor by tensor.

    Args:
        against: the float checkpoint an artifact was built from, for the errors.
        settings: "model.option=value" of the checkpoint; an artifact carries its own.
    """
    if against is not None and not names_artifact(path):
        raise UsageError(f"{path} is not an artifact", "--float is for artifacts; leave it out")
    loaded, original = open_pair(path, against, settings)
    streams: dict[str, int] = {}
    if is_artifact(path):
        artifact = load(path)
        streams = {n: len(data) for n, data in artifact.container.streams.items()}
        streams["header"] = artifact.container.overhead
        rows = tensor_reports(artifact, None if original is None else original.weights)
    else:
        rows = _checkpoint_rows(loaded)
    return InspectReport(
        path=str(path),
        sha256=loaded.sha256,
        bytes=path.stat().st_size,
        family=loaded.family,
        config=loaded.config,
        assumed=loaded.assumed,
        parameters=sum(w.size for w in loaded.weights.values()),
        streams=streams,
        tensors=rows,
    )


def unpack(path: Path, output: Path, *, force: bool = False) -> int:
    """Write an artifact's weights as float32 safetensors; returns the bytes written.

    The model's family and config go into the file's metadata and a sidecar, so that the result is a
    checkpoint golfpack reads again.

    Args:
        force: replace files that exist.

    Raises:
        UsageError: not an artifact, or a file to be written exists.
        CorruptError: a damaged artifact.
    """
    if path.is_file() and not names_artifact(path):
        raise UsageError(f"{path}: this is not a .golf artifact; unpack takes one", "see `inspect`")
    sidecar = output.with_name(output.stem + ".config.json")
    for target in (output, sidecar):
        if target.exists() and not force:
            raise UsageError(f"{target} exists", "choose another --output, or add --force")
    artifact = load(path)
    check_against_family(artifact)
    data = safetensors.numpy.save(
        {n: np.ascontiguousarray(w) for n, w in artifact.weights().items()},
        metadata={"family": artifact.family, "golfpack_sha256": artifact.container.sha256},
    )
    write_atomically(output, data)
    write_atomically(sidecar, json.dumps(artifact.config, indent=1).encode())
    return len(data)


def _checkpoint_rows(loaded: LoadedModel) -> list[TensorReport]:
    spec = find_family(loaded.family).spec(loaded.config)
    return [
        TensorReport(t.name, t.role, t.shape, "f32", 4 * t.numel, 0, 32.0, None, None)
        for t in spec.tensors
    ]
