"""A build by one process and by several of torchrun's: size, KL, and where the time went.

    python benchmarks/bench_together.py CHECKPOINT TRAIN.bin [--ranks 1 --ranks 2] [--budget 3bpw]
        [--calib-tokens 32768] [--refine 0]

Each process has one thread. Sizes must agree within 0.1%, KLs within 1%. Exits with 1 where they do not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def build(given: argparse.Namespace, ranks: int, out: Path) -> dict[str, Any]:
    """The report of a build by so many processes, with its seconds of wall-clock under "wall"."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *(start if ranks > 1 else []), "-m", "golfpack", "build", given.checkpoint,
         "--calib", given.calib, "--calib-tokens", str(given.calib_tokens), "--budget", given.budget,
         "--refine", str(given.refine), "--no-cache", "-q", "--threads", str(ranks), "-o", str(out)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    report = json.loads(out.with_suffix(".report.json").read_text())
    return report | {"wall": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("calib")
    parser.add_argument("--ranks", type=int, action="append")
    parser.add_argument("--budget", default="3bpw")
    parser.add_argument("--calib-tokens", type=int, default=32768)
    parser.add_argument("--refine", type=int, default=0)
    given = parser.parse_args()
    ok, first = True, None
    with tempfile.TemporaryDirectory() as folder:
        for ranks in given.ranks or [1, 2]:
            found = build(given, ranks, Path(folder) / f"of{ranks}.golf")
            first = first or found
            size = found["artifact_bytes"] / first["artifact_bytes"] - 1
            kl = found["measured_kl"] / first["measured_kl"] - 1
            ok = ok and abs(size) < 1e-3 and abs(kl) < 1e-2
            phases = ", ".join(f"{name} {s:.1f} s" for name, s in found["seconds"].items())
            print(
                f"{ranks} processes: {found['artifact_bytes']:,} B ({size:+.4%}), KL "
                f"{found['measured_kl']:.6f} ({kl:+.3%}), {found['wall']:.1f} s in all: {phases}",
                flush=True,
            )
    sys.exit(not ok)


if __name__ == "__main__":
    main()
