"""Compile every Triton kernel for an H100: no GPU needed, only Linux and triton.

    PYTHONPATH=. python benchmarks/gpu/compile_kernels.py

Prints what each variant takes: registers a thread, bytes spilled, shared memory of a program, seconds.
Fails if one does not compile, or does not fit the processor.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from golfpack.kernels import gptq_triton as gptq_triton

H100 = GPUTarget("cuda", 90, 32)
SHARED_MEMORY = 227 << 10  # bytes that one program may have
REGISTERS = 1 << 16  # of a processor
# Spilling slows a kernel down; a few words of it do not matter.
MAX_SPILL = 128

FEEDBACK_FLOATS = ("w", "step", "slope", "rate", "error", "push")


@dataclass(frozen=True)
class Variant:
    """A kernel, the types of its arguments, its constants, and its warps."""

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, int]
    warps: int


def variants() -> Iterator[Variant]:
    """Everything that a build or an evaluation may launch."""
    tile = gptq_triton.TILE
    for kind in ("fp64", "fp32"):
        types = {f"{name}_ptr": f"*{kind}" for name in FEEDBACK_FLOATS}
        types |= {"upper_ptr": f"*{kind}", "lower_ptr": f"*{kind}", "code_ptr": "*i32"}
        for two_sided, weighted in ((0, 0), (0, 1), (1, 0), (1, 1)):
            constants = {
                "TWO_SIDED": two_sided, "WEIGHTED": weighted, "ROWS": tile, "COLS": tile,
            }  # fmt: skip
            for config in gptq_triton._round_diagonal.configs:
                yield Variant(gptq_triton._round_diagonal, types, constants, config.num_warps)


def compile_one(variant: Variant) -> dict[str, Any]:
    """What the compilers say of one variant."""
    began = time.perf_counter()
    function = variant.kernel
    while hasattr(function, "configs"):  # within autotune
        function = function.fn
    names = [p.name for p in function.params]
    # What is no pointer and no constant is a size.
    signature = {
        n: "constexpr" if n in variant.constants else variant.types.get(n, "i32") for n in names
    }
    constants = {(names.index(n),): value for n, value in variant.constants.items()}
    compiled = triton.compile(
        ASTSource(function, signature, constants), H100, {"num_warps": variant.warps}
    )
    registers, spilled = assemble(compiled.asm["ptx"])
    return {
        "kernel": function.__name__.strip("_"),
        "constants": " ".join(f"{n}={v}" for n, v in variant.constants.items()),
        "types": "/".join(sorted({t.strip("*") for t in variant.types.values()})),
        "warps": variant.warps,
        "registers": registers,
        "spilled": spilled,
        "shared": compiled.metadata.shared,
        "seconds": time.perf_counter() - began,
    }


def assemble(ptx: str) -> tuple[int, int]:
    """Registers a thread and bytes spilled, by NVIDIA's assembler."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        said = subprocess.run(
            [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", source, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    found = [re.search(p, said) for p in (r"Used (\d+) registers", r"(\d+) bytes spill stores")]
    return tuple(int(m.group(1)) if m else 0 for m in found)  # type: ignore[return-value]


def main() -> None:
    print(f"triton {triton.__version__}, {H100.backend} sm_{H100.arch}")
    for variant in variants():
        row = compile_one(variant)
        print(
            f"{row['kernel']:14}  {row['warps']:2} warps  {row['registers']:3} registers  "
            f"{row['spilled']:4} B spilled  {row['shared']:6} B shared  {row['seconds']:4.1f} s  "
            f"{row['types']}  {row['constants']}",
            flush=True,
        )
        assert row["shared"] <= SHARED_MEMORY
        assert row["registers"] * 32 * row["warps"] <= REGISTERS
        assert row["spilled"] <= MAX_SPILL


if __name__ == "__main__":
    main()
