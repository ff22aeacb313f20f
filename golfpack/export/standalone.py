"""The entry of a stand-alone decoder: `decoder.py` bundles it with the loader it calls."""

import hashlib
from pathlib import Path

import numpy as np

from golfpack.errors import CorruptError
from golfpack.packer.format.loader import Artifact, loads

# Further names of tied tensors, and the family that ties them; an export puts the model's own here.
FAMILY = ""
TIES: dict[str, str] = {}
# Hex digest of the one file that a sealed decoder reads.
SHA256 = ""


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The weights in a `.golf` file: name -> float32 array in the tensor's own shape.

    A tied tensor is there under each of its names, as one array.

    Raises:
        CorruptError: the file is no artifact, it is damaged, or it needs what this decoder was made
            without. OSError: it cannot be read.
    """
    return _with_ties(loads(Path(path).read_bytes()))


def load_sealed(path: str | Path) -> dict[str, np.ndarray]:
    """The weights in the very file that this decoder was made for, as `load` gives them.

    Raises:
        CorruptError: it is another file. OSError: it cannot be read.
    """
    blob = Path(path).read_bytes()
    if hashlib.sha256(blob).hexdigest() != SHA256:
        raise CorruptError("this is not the file that its decoder was made for", None)
    return _with_ties(loads(blob))


def _with_ties(artifact: Artifact) -> dict[str, np.ndarray]:
    weights = artifact.weights()
    if artifact.family == FAMILY:
        # An untied model of the family has tensors of its own under these names.
        own = {a: name for a, name in TIES.items() if a not in weights and name in weights}
        weights |= {alias: weights[name] for alias, name in own.items()}
    return weights
