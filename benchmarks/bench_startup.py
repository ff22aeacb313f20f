"""How long each command says nothing: before its first output, and at most between two outputs.

In seconds of the command's own CPU time, which other work on the machine hardly changes; with one
thread they are what a quiet machine's clock shows. Linux only.

    python benchmarks/bench_startup.py CKPT TRAIN.bin VAL.bin TOKENIZER.model [COMMAND...]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
LIMIT = 2.0


def commands(ckpt: str, train: str, val: str, tokenizer: str) -> dict[str, list[str]]:
    """Every command on small work, in an order in which each finds what it reads."""
    build = ["build", ckpt, "--budget", "3bpw", "--calib", train]
    score = ["--tokens", val, "--tokenizer", tokenizer, "--limit", "4097"]
    return {
        "list": ["list"],
        "env": ["env"],
        "build": [*build, "-o", "a.golf"],
        "build (other)": [*build[:2], "--budget", "2bpw", *build[4:], "-o", "b.golf"],
        "build (own text)": [*build[:4], "--calib-tokens", "1024", "--no-cache", "-o", "a.golf"],
        "build --lossless": ["build", ckpt, "--lossless", "-o", "a.golf"],
        "plan": ["plan", ckpt, "--calib", train],
        "eval": ["eval", "a.golf", *score, "--json"],
        "eval --float": ["eval", "a.golf", "--float", ckpt, *score],
        "eval --ttt": ["eval", "a.golf", *score, "--ttt", "sgd", "--set", "ttt.chunk_tokens=1024"],
        "compare": ["compare", ckpt, "--recipes", "rd", "--budget", "3bpw", *score],
        "sweep": ["sweep", ckpt, "--budgets", "3bpw", "--calib", train],
        "report": ["report", "a.golf"],
        "report --float": ["report", "b.golf", "--float", ckpt],
        "inspect": ["inspect", "a.golf"],
        "inspect --float": ["inspect", "a.golf", "--float", ckpt],
        "inspect (checkpoint)": ["inspect", ckpt],
        "diff": ["diff", "a.golf", "b.golf"],
        "verify": ["verify", "b.golf", "--report", "b.report.json", "--against", ckpt],
        "unpack": ["unpack", "a.golf"],
        "import": ["import", ckpt, "-o", "i.safetensors"],
        "train": [
            "train",
            "--tokens",
            train,
            "--tokenizer",
            tokenizer,
            "--out",
            "run",
            "--steps",
            "2",
        ],
        "runreport": ["runreport", "run"],
        "probe": ["probe", ckpt, "--tokens", train, "-o", "p.json", "--limit", "1024"],
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, its threads among it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def silences(args: list[str], folder: str) -> tuple[list[tuple[float, str]], int]:
    """(CPU seconds before it, output) of every piece of output, and the exit code."""
    child = subprocess.Popen(
        [sys.executable, "-m", "golfpack", *args], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stdout is not None
    found, before = [], 0.0
    while piece := os.read(child.stdout.fileno(), 1 << 16):
        now = cpu_seconds(child.pid)
        found.append((now - before, piece.decode(errors="replace").strip().splitlines()[-1:]))
        before = now
    return [(s, line[0] if line else "") for s, line in found], child.wait()


def main() -> None:
    """Print a line per command; the exit code tells whether any was silent for too long."""
    paths = [str(Path(p).resolve()) for p in sys.argv[1:5]]
    picked, late = sys.argv[5:], 0
    print(f"{'command':22s}{'first':>7s}{'longest':>9s}  before")
    with tempfile.TemporaryDirectory() as folder:
        for name, args in commands(*paths).items():
            if picked and name not in picked:
                continue
            threads = (
                ["--threads", "1"]
                if args[0] in ("build", "plan", "eval", "compare", "sweep")
                else []
            )
            found, code = silences([*args, *threads], folder)
            longest = max(found)
            late += longest[0] > LIMIT
            print(f"{name:22s}{found[0][0]:7.2f}{longest[0]:9.2f}  {longest[1][:70]}", flush=True)
            if code:
                print(f"  exit code {code}")
    sys.exit(late > 0)


if __name__ == "__main__":
    main()
