"""`golfpack inspect` and `golfpack unpack`: what is in a file."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from golfpack.api.models import LoadedModel, check_against_family, open_model
from golfpack.data.shards import write_atomically
from golfpack.models import find_family
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.loader import is_artifact, load
from golfpack.report.reports import InspectReport
from golfpack.report.tensors import TensorReport, tensor_reports


def inspect(
    path: Path, against: Path | None = None, settings: tuple[str, ...] = ()
) -> InspectReport:
    """What an artifact or a checkpoint holds, tensor by tensor.

    Args:
        against: the float checkpoint an artifact was built from, for the errors.
    """
    loaded = open_model(path, settings)
    streams: dict[str, int] = {}
    if is_artifact(path):
        artifact = load(path)
        streams = {n: len(data) for n, data in artifact.container.streams.items()}
        streams["header"] = artifact.container.overhead
        weights = None if against is None else load_checkpoint(against).weights
        rows = tensor_reports(artifact, weights)
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


def unpack(path: Path, output: Path) -> int:
    """Write an artifact's weights as float32 safetensors; returns the bytes written.

    The model's family and config go into the file's metadata and a sidecar, so that the result is a
    checkpoint golfpack reads again.
    """
    artifact = load(path)
    check_against_family(artifact)
    data = safetensors.numpy.save(
        {n: np.ascontiguousarray(w) for n, w in artifact.weights().items()},
        metadata={"family": artifact.family, "golfpack_sha256": artifact.container.sha256},
    )
    write_atomically(output, data)
    write_atomically(
        output.with_name(output.stem + ".config.json"),
        json.dumps(artifact.config, indent=1).encode(),
    )
    return len(data)


def _checkpoint_rows(loaded: LoadedModel) -> list[TensorReport]:
    spec = find_family(loaded.family).spec(loaded.config)
    return [
        TensorReport(t.name, t.role, t.shape, "f32", 4 * t.numel, 0, 32.0, None, None)
        for t in spec.tensors
    ]
