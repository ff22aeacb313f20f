"""Every -mini preset from text to report: trained, built, evaluated three ways, written up.

    python benchmarks/bench_minis.py TEXT.txt --out FOLDER [--preset NAME]... [--steps 300] [--threads 2]

The text's first nine tenths are trained on, the rest is held out. A model that ignores the context, or
was trained on labels shifted by a token, cannot go below the cross-entropy of token frequencies; a run
whose validation loss is not clearly below that fails. Each command is one a user would type, and is
printed; one line a preset comes last. Exits with 1 where anything failed.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.data.stream import read_stream
from golfpack.data.tokenizer import load_tokenizer
from golfpack.train.presets import preset_names

MARGIN = 0.3  # nats per token below the frequencies' cross-entropy
BUDGET = "5bpw"
LIMIT = "8193"
MODES = {
    "plain": ("--mode", "plain"),
    "sliding": ("--mode", "sliding", "--stride", "64"),
    "ttt": ("--ttt", "sgd", "--set", "ttt.chunk_tokens=4096"),
}


def golfpack(*words: object) -> Any:
    """Run a command with --json; its document, or None for one without."""
    print("golfpack", *words, flush=True)
    run = subprocess.run(
        [sys.executable, "-m", "golfpack", *map(str, words)], capture_output=True, text=True
    )
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-2:])
    return json.loads(run.stdout) if "--json" in words else None


def frequencies_loss(train: np.ndarray, held_out: np.ndarray, vocab: int) -> float:
    """Cross-entropy of held-out tokens under the training tokens' frequencies, nats per token."""
    counts = Counter(train.tolist())
    total = train.size + vocab
    return sum(math.log(total / (counts[t] + 1)) for t in held_out.tolist()) / held_out.size


def one(name: str, train: Path, held_out: Path, out: Path, steps: int, threads: int) -> str:
    """All of it for one preset; a line."""
    began, run, extra = time.time(), out / name, ("--threads", threads)
    told = golfpack(
        "train", "--preset", name, "--text", train, "--val-tokens", held_out, "--out", run,
        "--steps", steps, *extra, "--json", "-q",
    )  # fmt: skip
    path = next(run.glob("tokenizer.*"))
    tokenizer = load_tokenizer(path)
    streams = [read_stream(str(p), tokenizer) for p in (train, held_out)]
    bound = frequencies_loss(*streams, tokenizer.vocab_size()) - MARGIN
    artifact = out / f"{name}.golf"
    built = golfpack(
        "build", run / "final_model.pt", "--budget", BUDGET, "--calib", train, "--calib-tokens", 8192,
        "--tokenizer", path, "-o", artifact, *extra, "--json", "-q",
    )  # fmt: skip
    data = ("--tokens", held_out, "--tokenizer", path, "--limit", LIMIT, *extra, "--json", "-q")
    bpb = {"float": golfpack("eval", run / "final_model.pt", *data, *MODES["plain"])["val_bpb"]}
    bpb |= {m: golfpack("eval", artifact, *data, *how)["val_bpb"] for m, how in MODES.items()}
    golfpack("runreport", run, "-o", out / f"{name}.md")
    golfpack("runreport", run, "--format", "summary", "-o", out / f"{name}.summary.md")
    ok = told["val_loss"] < bound
    scores = ", ".join(f"{mode} {value:.4f}" for mode, value in bpb.items())
    return (
        f"{name}: loss {told['val_loss']:.4f} (bound {bound:.4f}{'' if ok else ': NOT REACHED'}), "
        f"{built['artifact_bytes']:,} B, bpb {scores}; {time.time() - began:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", action="append")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    text = given.text.read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    train, held_out = given.out / "train.txt", given.out / "held_out.txt"
    train.write_text(text[:cut], encoding="utf-8")
    held_out.write_text(text[cut:], encoding="utf-8")
    lines = []
    for name in given.preset or [n for n in preset_names() if n.endswith("-mini")]:
        try:
            lines.append(one(name, train, held_out, given.out, given.steps, given.threads))
        except RuntimeError as error:
            lines.append(f"{name}: FAILED {error}")
    print("\n".join(lines))
    sys.exit(any("NOT REACHED" in line or "FAILED" in line for line in lines))


if __name__ == "__main__":
    main()
