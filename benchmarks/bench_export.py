"""Stand-alone decoders in a bare Python: bytes, seconds, and whether every bit is golfpack's.

    python3 -m venv bare && bare/bin/pip install numpy
    python benchmarks/bench_export.py x.golf ... --python bare/bin/python

Each artifact is exported, readable and minified; another Python, which has no golfpack, decodes it, one
thread. The digest of all names, shapes and bits is compared with that of golfpack's loader, tied tensors
under each of their names. Seconds are the process's own CPU time from the decoder's import on.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from golfpack.base.progress import silent
from golfpack.export.export import export, ties_of, under_all_names
from golfpack.packer.format.loader import load

# Runs where golfpack is not: seconds, peak MB, names, digest of every name, shape and bit.
DECODE = """
import hashlib, resource, sys, time
sys.path.insert(0, sys.argv[1])
began = time.process_time()
from golf_decode import load
weights = load(sys.argv[1] + "/model.golf")
seconds = time.process_time() - began
digest = hashlib.sha256()
for name in sorted(weights):
    digest.update(f"{name} {weights[name].shape}".encode() + weights[name].tobytes())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
count = sum(w.size for w in {id(w): w for w in weights.values()}.values())
print(seconds, peak, count, digest.hexdigest())
assert "golfpack" not in sys.modules and "torch" not in sys.modules
"""


def digest(weights: dict[str, np.ndarray]) -> str:
    """The same digest, of what golfpack's loader gives."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(f"{name} {weights[name].shape}".encode() + weights[name].tobytes())
    return found.hexdigest()


def main() -> None:
    """A row for each artifact and form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the bare interpreter")
    args = parser.parse_args()
    print(
        f"{'artifact':<24} {'form':<9} {'bytes':>7} {'weights':>11} {'seconds':>8} {'MB':>6}  bits"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    for path in args.artifacts:
        artifact = load(path)
        expected = digest(under_all_names(artifact.weights(), ties_of(artifact, path)))
        for minified in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                report = export(path, Path(folder), silent, minified=minified)
                command = [args.python, "-I", "-c", DECODE, folder]
                run = subprocess.run(command, capture_output=True, text=True, env=env)
            form = "packed" if minified else "readable"
            if run.returncode:
                print(f"{path.name:<24} {form:<9} {run.stderr.strip().splitlines()[-1]}")
                continue
            seconds, peak, count, found = run.stdout.split()
            same = found == expected
            print(
                f"{path.name:<24} {form:<9} {report.decoder_bytes:>7,} {int(count):>11,} "
                f"{float(seconds):>8.2f} {float(peak):>6.0f}  {'same' if same else 'OTHER'}"
            )


if __name__ == "__main__":
    main()
