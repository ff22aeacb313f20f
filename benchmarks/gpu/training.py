"""Training speed, and a record-shaped model trained for real, in pieces small enough to carry."""

import hashlib
import io
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.measure import Findings, Job, synchronise
from benchmarks.gpu.models import some_tokens
from golfpack.data.shards import read_tokens
from golfpack.train.config import TrainConfig
from golfpack.train.trainer import train

BATCH_TOKENS = 1 << 16
WARM_STEPS = 5
PIECE = 15 << 20  # bytes
HELD_OUT_TOKENS = 1 << 20
NAME = "record36m"


def speed(job: Job, found: Findings) -> None:
    """Tokens per second of training, against looking at every step's loss."""
    lazy = _tokens_per_second(job, log_every=1 << 20)
    eager = _tokens_per_second(job, log_every=1)
    what = "reading the loss of every step"
    found.figure("training", lazy, "tokens/s", straightforward=eager, ratio=lazy / eager, what=what)
    if not job.smoke:
        compiled = _tokens_per_second(job, log_every=1 << 20, compile_mode="default")
        ratio = compiled / lazy
        found.figure(
            "training, compiled", compiled, "tokens/s", straightforward=lazy, ratio=ratio,
            what="the same without torch.compile",
        )  # fmt: skip


def _config(job: Job, **options: object) -> TrainConfig:
    batch = job.pick(BATCH_TOKENS, 64)
    fixed = {"seq_len": job.model["seq_len"], "batch_tokens": batch, "device": job.device}
    return TrainConfig(**{**fixed, "threads": job.threads, **options})  # type: ignore[arg-type]


def _tokens_per_second(job: Job, **options: object) -> float:
    steps = WARM_STEPS + job.pick(20, 3)
    config = _config(job, steps=steps, save_every=1 << 20, **options)
    tokens = some_tokens(job, job.model["vocab_size"], 4 * config.batch_tokens)
    at: dict[int, float] = {}

    def clock(done: int, total: int, note: str) -> None:
        if done in (WARM_STEPS, steps - 1):
            synchronise(job.device)
            at[done] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        train(config, job.model, tokens, Path(folder) / "run", progress=clock)
    counted = steps - 1 - WARM_STEPS  # the last step saves a checkpoint
    return counted * config.batch_tokens / (at[steps - 1] - at[WARM_STEPS])


def train_model(job: Job, found: Findings) -> None:
    """Train the record-shaped model on `--tokens` for `--minutes`, into `--model-dir`."""
    assert job.tokens is not None, "the section model needs --tokens"
    tokens = read_tokens(job.tokens)
    held_out = min(HELD_OUT_TOKENS, len(tokens) // 10)
    config = _config(job, minutes=job.minutes, save_every=500, val_every=500, log_every=20)
    result = train(
        config, job.model, tokens[:-held_out], job.model_dir, val_tokens=tokens[-held_out:],
        resume=(job.model_dir / "last.pt").exists(),
    )  # fmt: skip
    found.figure("steps", result.steps, "", tokens=result.steps * config.batch_tokens)
    found.figure("training tokens in the shards", len(tokens) - held_out, "")
    found.figure("training loss", result.final_loss, "nats/token")
    found.figure("validation loss", result.val_loss or float("nan"), "nats/token")
    found.figure("peak memory", result.peak_memory_bytes, "bytes")


def export(job: Job, found: Findings) -> None:
    """Write the trained model as float16 in pieces beside the JSON, `--pieces` or all of them."""
    weights = torch.load(job.model_dir / "final_model.pt", map_location="cpu", weights_only=True)
    buffer = io.BytesIO()
    torch.save({n: w.to(torch.float16) for n, w in weights.items()}, buffer)
    data, size = buffer.getvalue(), job.pick(PIECE, 4096)
    folder, count = job.out.resolve().parent, -(-len(data) // size)
    for i in job.pieces or range(1, count + 1):
        (folder / f"{NAME}.pt.{i:03}").write_bytes(data[(i - 1) * size : i * size])
    sidecar = json.loads((job.model_dir / "final_model.config.json").read_text())
    (folder / f"{NAME}.config.json").write_text(json.dumps(sidecar, indent=1) + "\n")
    digest = hashlib.sha256(data).hexdigest()
    join = f"cat {NAME}.pt.??? > {NAME}.pt && echo '{digest}  {NAME}.pt' | sha256sum -c"
    found.figure("pieces", count, "", bytes=len(data), sha256=digest, join=join)
    print(f"{count} pieces in all; to join them: {join}", flush=True)
