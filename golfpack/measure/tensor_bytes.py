"""Every byte of an artifact's streams, given to the tensor it belongs to."""

from collections import Counter
from collections.abc import Mapping

from golfpack.packer.format.codestreams import code_matrices
from golfpack.packer.format.loader import Artifact
from golfpack.packer.format.stepcoding import steps_held
from golfpack.packer.format.streams import Entry
from golfpack.packer.format.tensors import PackedTensor, QTensor
from golfpack.packer.rate import entropy

# Streams that hold what codes need besides themselves.
SIDE_STREAMS = ("steps", "rows", "cols", "perms")


def byte_shares(artifact: Artifact) -> dict[str, dict[str, int]]:
    """Bytes per tensor and stream: every stream split in proportion to what each tensor has in it.

    They are whole and add up to the stream's length: what rounding down leaves goes to the largest
    remainders (Hamilton's method).
    """
    held: dict[str, dict[str, float]] = {}
    for name, (entry, t) in artifact.tensors.items():
        for stream, part in _held(entry, t, artifact.container.version).items():
            held.setdefault(stream, {})[name] = part
    shares: dict[str, dict[str, int]] = {name: {} for name in artifact.tensors}
    for stream, data in artifact.container.weight_streams.items():
        for name, size in apportioned(len(data), held[stream]).items():
            shares[name][stream] = size
    return shares


def apportioned(total: int, parts: Mapping[str, float]) -> dict[str, int]:
    """Split `total` in proportion to `parts`, by largest remainder; equal ones in the given order."""
    whole = sum(parts.values())
    assert whole > 0, "a stream that belongs to no tensor"
    exact = {name: total * part / whole for name, part in parts.items()}
    out = {name: int(x) for name, x in exact.items()}
    left = total - sum(out.values())
    for name in sorted(exact, key=lambda n: out[n] - exact[n])[:left]:
        out[name] += 1
    return out


def _held(entry: Entry, t: PackedTensor, version: int) -> dict[str, float]:
    """What a tensor has in each stream: bits of codes by their entropy, steps, bytes of all else."""
    if not isinstance(t, QTensor):
        return {"raw": t.values.nbytes}
    matrices = code_matrices(t)
    steps = Counter[str]()
    for shape, fields in entry.matrices:
        steps.update(steps_held(fields, shape, version))
    return {
        # One bit more, so that codes that are all zero own their stream's few bytes.
        entry.code_stream: 1 + sum(entropy(m.codes) * m.codes.size for m in matrices),
        "perms": sum(s[0] for s, fields in entry.matrices if "sorted" in fields),
        **steps,
    }
