"""The sha256 of a written list of builds: equal before and after a change that is to change no byte.

    python benchmarks/same_bytes.py > before.txt
    (change something)
    python benchmarks/same_bytes.py --against before.txt

Every shipped recipe on a small model made here, pruning, AWQ, targets and `--lossless` on the same
model, and golf_0.48M at 3 bpw under three recipes where ../shared has it. Sha256 are those of one
machine: compare runs on the same one. Exits with 1 where a line differs.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
DIM, HIDDEN, VOCAB, KV_DIM, HEADS, BLOCKS = 48, 96, 256, 24, 4, 2
RECIPES = (
    "rd", "gptq-lite", "gptq-lzma", "int5-mlp", "int8-zlib", "mixed-int5-int6", "sdclip-brotli",
    "sdclip-hessian", "sdclip-lqer-pergroup",
)  # fmt: skip
# Name of the line -> options of `golfpack build` on the small model.
SMALL = {
    # A float16 embedding alone takes 24,576 bytes.
    **{
        f"small {recipe}": [
            "--recipe",
            recipe,
            "--budget",
            "40kB" if recipe == "int5-mlp" else "24kB",
        ]
        for recipe in RECIPES
    },
    "small rd 2bpw": ["--budget", "2bpw"],
    "small rd own text": ["--budget", "3bpw", "--calib-tokens", "2048", "--seed", "3"],
    "small rd target": ["--target-kl", "0.01"],
    "small rd recalibrated": ["--budget", "3bpw", "--recalibrate"],
    "small rd refined": ["--budget", "3bpw", "--refine", "4096"],
    "small rd data-free": ["--budget", "4bpw", "--data-free"],
    "small lossless": ["--lossless"],
}
REAL = {
    f"golf_0.48M {recipe} 3bpw": ["--recipe", recipe, "--budget", "3bpw"]
    for recipe in ("rd", "mixed-int5-int6", "gptq-lzma")
}
UNCALIBRATED = ("--data-free", "--lossless")


def small_checkpoint(path: Path) -> None:
    """Weights of the golf family as training leaves them: low rank plus noise, unequal sizes."""
    shapes = {"skip_weights": (1, DIM), "tok_emb.weight": (VOCAB, DIM)}
    for i in range(BLOCKS):
        for name, shape in (
            ("attn_scale", (DIM,)), ("mlp_scale", (DIM,)), ("resid_mix", (2, DIM)),
            ("attn.q_gain", (HEADS,)), ("attn.c_q.weight", (DIM, DIM)),
            ("attn.c_k.weight", (KV_DIM, DIM)), ("attn.c_v.weight", (KV_DIM, DIM)),
            ("attn.proj.weight", (DIM, DIM)), ("mlp.fc.weight", (HIDDEN, DIM)),
            ("mlp.proj.weight", (DIM, HIDDEN)),
        ):  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
    rng, state = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        if not name.endswith(".weight"):
            w = 1 + 0.1 * rng.standard_normal(shape)
        else:
            rank = max(1, shape[1] // 8)
            low = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
            sizes = np.exp(
                0.4 * rng.standard_normal((shape[0], 1)) + 0.3 * rng.standard_normal(shape[1])
            )
            w = (low / rank**0.5 + 0.5 * rng.standard_normal(shape)) * sizes / shape[1] ** 0.5
        state[name] = torch.from_numpy(w.astype(np.float32))
    torch.save(state, path)


def small_shard(path: Path) -> None:
    """Zipfian tokens in the challenge's shard format."""
    tokens = np.minimum(np.random.default_rng(2).zipf(1.3, 65_536), VOCAB - 1)
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(tokens)
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def build(checkpoint: Path, output: Path, options: list[str]) -> str:
    """One build in a process of its own: sha256 and size, or how it ended."""
    command = [
        sys.executable, "-m", "golfpack", "build", str(checkpoint), "-o", str(output), "--quiet",
        "--no-cache", "--force", "--threads", "2", *options,
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        return f"exit {done.returncode}: {done.stderr.splitlines()[-2]}"
    blob = output.read_bytes()
    return f"{hashlib.sha256(blob).hexdigest()} {len(blob):>9,} bytes"


def rows() -> list[str]:
    """All lines, each printed as soon as it is known."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_checkpoint(folder / "small.pt")
        small_shard(folder / "small.bin")
        jobs = [
            (line, folder / "small.pt", folder / "small.bin", options)
            for line, options in SMALL.items()
        ]
        golf = SHARED / "checkpoints" / "golf_0.48M" / "final_model.pt"
        shard = SHARED / "data" / "shards" / "fineweb10B_sp1024_train_first1M.bin"
        if golf.exists():
            jobs += [(line, golf, shard, options) for line, options in REAL.items()]
        found = []
        for line, checkpoint, calib, options in jobs:
            own = line.endswith("own text") or any(o in UNCALIBRATED for o in options)
            calibration = [] if own else ["--calib", str(calib)]
            found.append(
                f"{line:<32} {build(checkpoint, folder / 'x.golf', [*options, *calibration])}"
            )
            print(found[-1], flush=True)
    return found


def main() -> None:
    """Print the list; with --against, hold it to an earlier one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="what an earlier run printed")
    args = parser.parse_args()
    found = rows()
    if args.against is None:
        return
    before = args.against.read_text().splitlines()
    differ = sorted(set(before) ^ set(found))
    print("all as before" if not differ else "\n".join(["differs:", *differ]))
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
