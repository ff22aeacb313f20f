"""What artifacts of an older format take as today's golfpack writes the same tensors.

    python benchmarks/bench_again.py OLD.golf [MORE.golf ...]

A line per artifact: its version and bytes, those of the file written again (which decodes to the same
bits), their ratio, and where bytes are in either: steps, codes with their scale models, all else. The
packed stand-alone decoders of both stand beside them, as a contest counts code.
"""

import argparse
from pathlib import Path

import numpy as np

from golfpack.export.decoder import packed
from golfpack.packer.format.loader import Artifact, load, loads
from golfpack.packer.format.reencode import encode_again

STEPS = ("steps", "rows", "cols")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    args = parser.parse_args()
    print("| artifact | version | bytes: steps, codes, other | again | ratio | packed decoder |")
    print("|---|---:|---|---|---:|---|")
    for path in args.artifacts:
        before = load(path)
        after = loads(encode_again(before))
        weights = after.weights()
        assert all(np.array_equal(w, weights[n]) for n, w in before.weights().items())
        print(
            f"| {path.stem} | {before.container.version} | {parts(before)} | "
            f"{parts(after)} | "
            f"{after.container.size / before.container.size:.4f} | "
            f"{len(packed(before, {})):,}, {len(packed(after, {})):,} |",
            flush=True,
        )


def parts(artifact: Artifact) -> str:
    """Bytes of the whole, of steps, codes and all else."""
    sizes = {name: len(data) for name, data in artifact.container.streams.items()}
    steps = sum(sizes.get(name, 0) for name in STEPS)
    codes = sum(size for name, size in sizes.items() if name.startswith("codes"))
    whole = artifact.container.size
    return f"{whole:,}: {steps:,}, {codes:,}, {whole - steps - codes:,}"


if __name__ == "__main__":
    main()
