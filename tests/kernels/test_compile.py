"""Every kernel compiles for an H100, without one, and fits it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "compile_kernels.py"


@pytest.mark.slow
def test_kernels_compile_for_an_h100(tmp_path):
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert {line.split()[0] for line in run.stdout.splitlines()[1:]} == {
        "round_diagonal",
    }
