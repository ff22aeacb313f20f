"""A training step of golfpack's against a plain PyTorch loop of the same model, step by step in turn.

    python benchmarks/bench_train.py [--shape golf-baseline|gpt2|gpt2-small|4x128+65536x32x3]
        [--steps 10] [--threads 1] [--tokens 256] [--optimizer adamw]

Both have the same module, initial weights, batches, loss, clipping and optimiser; the plain loop's AdamW
moves all rows of a table at every step, golfpack's those that are looked up (train/deferred.py). After
every step of golfpack's trainer (its log, its clock and its thread of batches included) the plain loop
takes one: a machine's noise meets both alike. Medians of wall-clock and of the process's CPU time,
without the first two steps. The last losses must agree.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from golfpack.models import FAMILIES
from golfpack.models.golf.family import GOLF
from golfpack.train.batches import Batches
from golfpack.train.config import TrainConfig
from golfpack.train.optim import make_optimisers
from golfpack.train.run import new_run, training_of
from golfpack.train.shapes import options_of, read_shape
from golfpack.train.trainer import complete_options, train

GPT2: dict[str, Any] = {"num_layers": 12, "dim": 768, "num_heads": 12, "mlp_hidden": 3072}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "golf-baseline": (
        "golf",
        {"num_layers": 9, "dim": 512, "num_heads": 8, "num_kv_heads": 4, "mlp_hidden": 1024,
         "vocab_size": 1024},
    ),
    "gpt2": ("gpt2", GPT2 | {"vocab_size": 50257}),
    "gpt2-small": (
        "gpt2",
        {"num_layers": 6, "dim": 384, "num_heads": 6, "mlp_hidden": 1536, "vocab_size": 4096},
    ),
}  # fmt: skip
SKIPPED = 2


def shape_of(name: str) -> tuple[str, dict[str, Any]]:
    """Family and options of a shape: one of these, or a golf model as `train --shape` has it."""
    return SHAPES.get(name) or ("golf", {"vocab_size": 1024, **options_of(GOLF, read_shape(name))})


class Done(Exception):
    """Enough steps: the trainer's last one would write a checkpoint."""


def plain_loop(
    family_name: str, shape: dict[str, Any], config: TrainConfig, tokens: np.ndarray
) -> Callable[[], float]:
    """One step of a loop as one writes it oneself; gives the loss."""
    family = FAMILIES[family_name]
    spec = family.spec(complete_options(family, shape, config.seq_len))
    model = new_run(family, spec, config).model
    decays = training_of(family).decays
    optimisers = make_optimisers(dict(model.named_parameters()), spec, decays, config)
    batches, step = Batches(tokens, config.seq_len, config.rows, config.seed, config.order), 0

    def one() -> float:
        nonlocal step
        rows = torch.from_numpy(batches.at(step))
        step += 1
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        return loss.item()

    return one


def measure(name: str, steps: int, batch_tokens: int, threads: int, optimizer: str) -> str:
    """A line on a shape."""
    family_name, shape = shape_of(name)
    seq_len = min(batch_tokens, 256)
    config = TrainConfig(
        steps=steps + SKIPPED + 1, batch_tokens=batch_tokens, seq_len=seq_len, optimizer=optimizer,
        lr=1e-4, matrix_lr=0.001, schedule="constant", warmup_steps=0, save_every=1 << 30,
        log_every=1, threads=threads,
    )  # fmt: skip
    if optimizer == "muon":
        config = TrainConfig(**{**vars(config), "embed_lr": 1e-4, "scalar_lr": 1e-4})
    tokens = np.random.default_rng(0).integers(shape["vocab_size"], size=64 * batch_tokens)
    tokens = tokens.astype(np.uint16)
    plain = plain_loop(family_name, shape, config, tokens)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    losses = {}
    began = time.perf_counter(), time.process_time()

    def after(done: int, total: int, note: str) -> None:
        nonlocal began
        ended = time.perf_counter(), time.process_time()
        ours.append((ended[0] - began[0], ended[1] - began[1]))
        began = time.perf_counter(), time.process_time()
        losses["plain"] = plain()
        ended = time.perf_counter(), time.process_time()
        theirs.append((ended[0] - began[0], ended[1] - began[1]))
        losses["ours"] = note
        if done == total - 1:
            raise Done
        began = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Done):
            train(
                config, shape, tokens, Path(folder) / "run", family=FAMILIES[family_name],
                progress=after,
            )  # fmt: skip
        last = (Path(folder) / "run" / "train.jsonl").read_text().splitlines()[-1]
    text = []
    for clock, kind in enumerate(("wall", "CPU")):
        mine, other = (statistics.median(t[clock] for t in x[SKIPPED:]) for x in (ours, theirs))
        text.append(
            f"{kind} {1e3 * mine:.1f} ms against {1e3 * other:.1f}, ratio {mine / other:.3f}"
        )
    loss = float(last.split('"loss": ')[1].split(",")[0])
    agree = abs(loss - losses["plain"]) < 1e-3 * loss
    return f"{name}, {optimizer}: {'; '.join(text)}; losses {'agree' if agree else 'DIFFER'}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", action="append", help=f"{', '.join(SHAPES)} or 4x128+65536x32x3")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=256, help="per step")
    parser.add_argument("--optimizer", default="adamw", choices=("adamw", "lion", "muon"))
    given = parser.parse_args()
    for name in given.shape or ("golf-baseline", "gpt2"):
        print(measure(name, given.steps, given.tokens, given.threads, given.optimizer), flush=True)


if __name__ == "__main__":
    main()
