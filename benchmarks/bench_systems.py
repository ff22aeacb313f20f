"""Size, time and memory of the four run-report systems, on random checkpoints of their shapes.

    python benchmarks/bench_systems.py 003-int6 003-int5 002-16MB 002-1k 001-100MB

Weights are N(0, 0.02), as all four start, so that sizes are those of untrained models: trained ones
have less even rows and pack smaller. Cases with a bit width use a plain recipe (row maxima, rounding to
nearest) and set the artifact against raw packing, which stores that many bits for every weight of a
matrix and a float16 for every row and every other weight; the others use the default recipe. Nothing is
calibrated, so a budget of fewer than 3 bits per weight is refused; --blind builds it.
"""

import argparse
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from golfpack import build
from golfpack.errors import BudgetError
from golfpack.models import find_family
from golfpack.spec import ModelSpec

SYSTEM_001 = {
    "vocab_size": 50257, "num_layers": 12, "dim": 768, "num_heads": 12, "num_kv_heads": 12,
    "mlp_hidden": 3072, "embed_dim": 512, "attn_dim": 144, "sem_dim": 48, "geo_dim": 96,
    "seq_len": 256,
}  # fmt: skip
SYSTEM_002 = {
    "vocab_size": 50257, "num_layers": 6, "dim": 512, "num_heads": 8, "num_kv_heads": 8,
    "mlp_hidden": 2048, "embed_dim": 512, "attn_dim": 96, "null_attn": True,
}  # fmt: skip
SYSTEM_003 = {
    "vocab_size": 4000, "num_layers": 6, "dim": 256, "num_heads": 8, "mlp_hidden": 1024,
    "seq_len": 256,
}  # fmt: skip

PLAIN_RECIPE = """
name = "int{bits}"
about = "int{bits} by row maximum, rounded to nearest."
calibration = "none"

[[pass]]
id = "policy"
rules = [
  {{ roles = ["vector"], scheme = "keep", dtype = "f16" }},
  {{ scheme = "int", bits = {bits}, clip = "rowmax" }},
]

[[pass]]
id = "sense"

[[pass]]
id = "clip"

[[pass]]
id = "fit"
tolerance = 0.002
max_rounds = 8

[[pass]]
id = "steps"

[[pass]]
id = "round"
feedback = false

[[pass]]
id = "encode"
codec = "rans"
"""


@dataclass(frozen=True)
class Case:
    """One build: bits None for the default recipe; budget None for raw packing's own size."""

    family: str
    config: dict[str, Any]
    bits: int | None
    budget: str | None


CASES = {
    "003-int6": Case("alph", SYSTEM_003, 6, None),
    "003-int5": Case("alph", SYSTEM_003, 5, None),
    "002-16MB": Case("bottleneck", SYSTEM_002, 5, "16MB"),
    "002-1k": Case("bottleneck", {**SYSTEM_002, "vocab_size": 1024}, 6, "16MB"),
    "002-8k": Case("bottleneck", {**SYSTEM_002, "vocab_size": 8192}, 5, "16MB"),
    "002-rd": Case("bottleneck", SYSTEM_002, None, "16MB"),
    "001-100MB": Case("bottleneck", SYSTEM_001, 6, "100MB"),
    "001-rd": Case("bottleneck", SYSTEM_001, None, "100MB"),
}


def packed_bytes(spec: ModelSpec, bits: int) -> int:
    """Raw packing: no header, no entropy coder."""
    size = 0
    for t in spec.tensors:
        vector = t.role == "vector"
        size += 2 * t.numel if vector else -(-t.numel * bits // 8) + 2 * t.shape[0]
    return size


def random_checkpoint(spec: ModelSpec, path: Path) -> None:
    """Write a state dict as training starts from it: N(0, 0.02), norms at one."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for t in spec.tensors:
        if t.role == "vector":
            state[t.name] = torch.ones(t.shape)
        else:
            state[t.name] = 0.02 * torch.randn(t.shape, generator=generator)
    torch.save(state, path)


def run(name: str, case: Case, threads: int, blind: bool) -> None:
    """Build one case and print a line."""
    spec = find_family(case.family).spec(case.config)
    raw = None if case.bits is None else packed_bytes(spec, case.bits)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, recipe = Path(folder) / "random.pt", Path(folder) / "recipe.toml"
        random_checkpoint(spec, checkpoint)
        recipe.write_text(PLAIN_RECIPE.format(bits=case.bits))
        settings = () if case.family == "bottleneck" else ("model.num_heads=8",)
        began = time.perf_counter()
        try:
            report = build(
                checkpoint, budget=case.budget or raw, settings=settings, data_free=True,
                recipe="rd" if raw is None else str(recipe), dry_run=True, threads=threads,
                cache=False, blind=blind,
            )  # fmt: skip
        except BudgetError as error:
            outcome = f"refused: {error.message} ({error.hint})"
        else:
            worst = max(t.rel_err for t in report.tensors)
            outcome = (
                f"{report.artifact_bytes:,} of {report.budget_bytes:,} bytes, "
                f"{report.bits_per_weight:.3f} bits per weight, {len(report.trace)} rounds, "
                f"largest relative error {worst:.4f}"
            )
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    packed = "" if raw is None else f", raw packing {raw:,}"
    print(
        f"{name}: {spec.numel:,} weights{packed}: {outcome}; {seconds:.1f} s, peak {peak:.2f} GiB"
    )


def main() -> None:
    """Run the cases named on the command line, in one process: give one for its own peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blind", action="store_true")
    args = parser.parse_args()
    for name in args.cases:
        run(name, CASES[name], args.threads, args.blind)


if __name__ == "__main__":
    main()
