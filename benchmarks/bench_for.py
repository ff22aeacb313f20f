"""What training for an artifact is worth: bpb of artifacts of equal bytes, by option, after equal steps.

    python benchmarks/bench_for.py TRAIN.bin VAL.bin --tokenizer T.model [--steps 300] [--seeds 3]
        [--budgets 2bpw,2.5bpw] [--variants plain,errors] [--dim 128] [--layers 3] [--optimizer muon]
    python benchmarks/bench_for.py --cost [--steps 20]

Every variant of a seed begins with the same weights and data. Runs that differ only behind `aim_from`
share the steps before. A row has the float model's bpb, each artifact's, and the differences to the
plain run of the same seed. `--cost` times a training step with an option against one without, in turn in
one process, on two shapes: medians of the process's CPU time.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import golfpack
from golfpack.base.sizes import parse_size
from golfpack.build.options import read_options
from golfpack.build.run import build
from golfpack.data.shards import read_tokens
from golfpack.data.tokenizer import load_tokenizer
from golfpack.eval.bytes import ByteTable
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.family import GOLF
from golfpack.train.aim import look
from golfpack.train.config import TrainConfig
from golfpack.train.log import Stopwatch
from golfpack.train.loss import validation_loss
from golfpack.train.run import new_run
from golfpack.train.step import train_step
from golfpack.train.trainer import complete_options, train

AIM_FROM = 0.6
# Options by the name of their row; what is not here begins behind `aim_from`.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "errors 0.2": {"aim_errors": 0.2},
    "errors 0.3": {"aim_errors": 0.3},
    "errors 0.5": {"aim_errors": 0.5},
    "errors 1": {"aim_errors": 1.0},
    "errors 0.3, last fifth": {"aim_errors": 0.3, "aim_from": 0.8},
    "errors 0.5, last fifth": {"aim_errors": 0.5, "aim_from": 0.8},
    "rounding": {"aim_rounding": True},
    "rounding, last fifth": {"aim_rounding": True, "aim_from": 0.8},
    "trellis": {"aim_trellis": True},
    "trellis, last fifth": {"aim_trellis": True, "aim_from": 0.8},
    "trellis, last twentieth": {"aim_trellis": True, "aim_from": 0.95},
    "rate 0.3": {"rate_decay": 0.3},
    "rate 1": {"rate_decay": 1.0},
    "decay to 0": {"decay_final": 0.0},
    "decay to 6 times": {"decay_final": 6.0},
    "cautious decay": {"cautious_decay": True},
    "decay 0.5": {"weight_decay": 0.5},
    "EMA 0.98": {"ema_decay": 0.98},
    "SWA, last fifth": {"swa_start": 0.8, "swa_every": 5},
    "all warm-down": {"warmdown_fraction": 1.0},
    "a fifth more steps": {},
    "codes": {},
    "twice the codes": {},
    "errors 0.5, codes": {"aim_errors": 0.5},
}  # fmt: skip
# These differ from the first step on.
FROM_THE_START = (
    "cautious decay", "decay 0.5", "EMA 0.98", "SWA, last fifth", "all warm-down", "a fifth more steps",
)  # fmt: skip
# Tokens on which builds train codes (`--refine-on labels`), as a share of the run's.
CODES = {"codes": 0.1, "twice the codes": 0.2, "errors 0.5, codes": 0.1}
# ... and the runs whose models those are.
RUNS = {"codes": "plain", "twice the codes": "plain", "errors 0.5, codes": "errors 0.5"}
COST_SHAPES: dict[str, dict[str, Any]] = {
    "0.5M": {"num_layers": 3, "dim": 128, "num_heads": 4, "num_kv_heads": 2, "mlp_hidden": 256},
    "4M": {"num_layers": 6, "dim": 256, "num_heads": 8, "num_kv_heads": 4, "mlp_hidden": 768},
}
COSTS: dict[str, dict[str, Any]] = {
    "errors": {"aim_errors": 0.3}, "rounding": {"aim_rounding": True}, "trellis": {"aim_trellis": True},
    "rate": {"rate_decay": 0.3}, "cautious": {"cautious_decay": True},
}  # fmt: skip


class Shared(Exception):
    """The steps that all variants share are done."""


class Bench:
    """One data set, one shape."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, Path(args.folder)
        self.tokens, self.val = read_tokens(args.train), read_tokens(args.val, args.val_tokens + 1)
        tokenizer = load_tokenizer(Path(args.tokenizer))
        self.shape = {
            "num_layers": args.layers, "dim": args.dim, "num_heads": args.dim // 32,
            "num_kv_heads": max(1, args.dim // 64), "mlp_hidden": 2 * args.dim,
            "vocab_size": tokenizer.vocab_size(),
        }  # fmt: skip
        table = ByteTable.from_tokenizer(tokenizer, tokenizer.vocab_size())
        self.bytes_per_token = float(np.mean(table.count(self.val)))

    def config(self, seed: int, **options: Any) -> TrainConfig:
        args = self.args
        return TrainConfig(**{
            "steps": args.steps, "batch_tokens": args.batch, "seq_len": 128, "threads": 1, "seed": seed,
            "save_every": int(AIM_FROM * args.steps), "budget": args.budgets.split(",")[0],
            "aim_from": AIM_FROM, "optimizer": args.optimizer, "lr": args.lr, **options,
        })  # fmt: skip

    def bpb(self, module: torch.nn.Module) -> float:
        nats = validation_loss(module, self.val, 128, 64)
        return nats / math.log(2) / self.bytes_per_token

    def shared(self, seed: int) -> Path:
        """A run up to `aim_from`."""
        out, last = self.folder / f"shared-{seed}", int(AIM_FROM * self.args.steps)
        if (out / "last.pt").exists():
            return out

        def stop(done: int, total: int, note: str) -> None:
            if done >= last:
                raise Shared

        with contextlib.suppress(Shared):
            train(self.config(seed), self.shape, self.tokens, out, progress=stop)
        return out

    def folder_of(self, name: str, seed: int) -> Path:
        """Where a run is kept."""
        return self.folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}"

    def trained(self, name: str, seed: int) -> Path:
        """The folder of a finished run."""
        out = self.folder_of(name, seed)
        if (out / "final_model.pt").exists():
            return out
        config = self.config(seed, **VARIANTS[name])
        if name == "a fifth more steps":
            config = dataclasses.replace(config, steps=6 * self.args.steps // 5)
        if name in FROM_THE_START:
            began = time.process_time()
            train(config, self.shape, self.tokens, out)
            (out / "seconds.txt").write_text(f"{time.process_time() - began:.1f}\n")
            return out
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(self.shared(seed), out)
        last = torch.load(out / "last.pt", weights_only=True)
        last["settings"] |= {
            k: v for k, v in dataclasses.asdict(config).items() if k in last["settings"]
        }
        torch.save(last, out / "last.pt")
        train(config, self.shape, self.tokens, out, resume=True)
        return out

    def scores(self, name: str, seed: int) -> dict[str, float]:
        """Bits per byte of the float model ("float") and of its artifact at every budget."""
        out = self.trained(RUNS.get(name, name), seed)
        kept = out / f"{name.replace(' ', '-')}.json"
        found = json.loads(kept.read_text()) if kept.exists() else {}
        if "float" not in found:
            found["float"] = self.bpb(load_checkpoint(out / "final_model.pt").module())
        for budget in self.args.budgets.split(","):
            if budget not in found:
                options = read_options({
                    "checkpoint": out / "final_model.pt", "budget": budget, "calib": self.args.train,
                    "calib_tokens": 8192, "output": out / f"{budget}.golf", "force": True,
                    "refine": int(CODES.get(name, 0) * self.args.steps * self.args.batch),
                    "refine_on": "labels" if name in CODES else "kl",
                })  # fmt: skip
                began = time.process_time()
                build(options)
                found[f"{budget} seconds"] = time.process_time() - began
                found[budget] = self.bpb(golfpack.load(out / f"{budget}.golf").module())
        kept.write_text(json.dumps(found))
        return found


def table(args: argparse.Namespace) -> None:
    """A line per variant: means over seeds, and differences to the plain run with their spread."""
    bench = Bench(args)
    seeds = [args.seed] if args.seed is not None else list(range(args.seeds))
    plain = [bench.scores("plain", seed) for seed in seeds]
    for name in args.variants.split(";") if args.variants else VARIANTS:
        rows = [bench.scores(name, seed) for seed in seeds]
        text = []
        for what in ("float", *args.budgets.split(",")):
            change = [row[what] - base[what] for row, base in zip(rows, plain, strict=True)]
            spread = statistics.stdev(change) if len(change) > 1 else math.nan
            mean = statistics.mean(row[what] for row in rows)
            text.append(f"{what} {mean:.4f} ({statistics.mean(change):+.4f} ± {spread:.4f})")
        taken = statistics.mean(
            row[f"{b} seconds"] for row in rows for b in args.budgets.split(",")
        )
        of_run = bench.folder_of(name, 0) / "seconds.txt"
        trained = f", training {of_run.read_text().strip()} s" if of_run.exists() else ""
        print(f"{name}: {'; '.join(text)}; build {taken:.1f} s{trained}", flush=True)


def cost(args: argparse.Namespace) -> None:
    """A line per shape: CPU time of a step with each option, over one without."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for name, shape in COST_SHAPES.items():
        spec = GOLF.spec(complete_options(GOLF, {**shape, "vocab_size": 1024}, 128))
        base = TrainConfig(steps=1000, batch_tokens=args.batch, seq_len=128, budget="2bpw")
        tokens = rng.integers(1024, size=1 << 16).astype(np.uint16)
        seen = look(
            new_run(GOLF, spec, base).model, spec, tokens, parse_size("2bpw", spec.numel), 0, 0, None,
            count=2048, seed=0,
        )  # fmt: skip
        times: dict[str, list[float]] = {}
        runs = {"none": (new_run(GOLF, spec, base), base)}
        for kind, options in COSTS.items():
            config = dataclasses.replace(base, **options)
            runs[kind] = new_run(GOLF, spec, config), config
        for run, _ in runs.values():
            run.look = seen
        for _ in range(args.steps):
            batch = rng.integers(1024, size=(args.batch // 128, 129))
            for kind, (run, config) in runs.items():
                began = time.process_time()
                train_step(run, config, batch, 0.8, Stopwatch("cpu"))
                times.setdefault(kind, []).append(time.process_time() - began)
        usual = statistics.median(times["none"][2:])
        ratios = (f"{k} {statistics.median(t[2:]) / usual:.3f}" for k, t in times.items())
        print(f"{name}, {args.batch} tokens, {1e3 * usual:.0f} ms: {', '.join(ratios)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train", nargs="?")
    parser.add_argument("val", nargs="?")
    parser.add_argument("--tokenizer")
    parser.add_argument("--folder", default=tempfile.gettempdir() + "/bench_for")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a step")
    parser.add_argument("--val-tokens", type=int, default=32768)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="this one alone; scores are kept in --folder")
    parser.add_argument("--budgets", default="2bpw,2.5bpw")
    parser.add_argument("--variants", help="names of VARIANTS, between semicolons")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--lr", type=float, default=2e-3, help="of adamw and lion")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.cost:
        cost(args)
    elif args.train and args.val and args.tokenizer:
        Path(args.folder).mkdir(parents=True, exist_ok=True)
        table(args)
    else:
        parser.error("give TRAIN, VAL and --tokenizer, or --cost")


if __name__ == "__main__":
    main()
