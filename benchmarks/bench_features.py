"""What each training feature changes at equal time: validation loss, mean and spread over seeds.

    python benchmarks/bench_features.py TRAIN.bin VAL.bin TOKENIZER.model [--steps 300] [--seeds 3]
        [--probe 20] [--out features.json]

A golf model of 0.29M parameters, 512 tokens a step, one thread. Of features that compute more (or less),
short runs in turn with what they are compared with give the ratio r of CPU time per step, and their own
runs have 1 / r as many steps, where their schedule ends. All others have as many. "Time a step" is that
of the runs themselves, so that noise of a few percent is to be expected where it should be 1.
Differences are paired by seed: below zero is better. Runs are kept in `--out` as they end, and a second
call goes on from there; the table is of the seeds that are complete. For meta-TTT and what it is
compared with, also the loss after score-first test-time training (SGD) on the first 8,192 targets of the
held-out text.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import golfpack
from golfpack.data.shards import read_tokens
from golfpack.data.tokenizer import load_tokenizer
from golfpack.train.config import TrainConfig
from golfpack.train.features.weights import with_word_starts
from golfpack.train.trainer import train

SHAPE: dict[str, Any] = {
    "vocab_size": 1024, "num_layers": 3, "dim": 96, "num_heads": 4, "num_kv_heads": 2,
    "mlp_hidden": 192,
}  # fmt: skip
LOOPED = SHAPE | {"layer_order": "0-1,0-2"}
# name -> settings of the run, shape, and what it is compared with.
FEATURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "none": ({}, SHAPE, ""),
    "momentum warm-up": ({"momentum_start": 0.85, "momentum_steps": 0.25}, SHAPE, "none"),
    "cyclic momentum": ({"momentum_start": 0.85, "momentum_cycle": 50}, SHAPE, "none"),
    "word starts x 1.5": ({"word_start_weight": 1.5}, SHAPE, "none"),
    "word starts x 0.1 to 1": ({"word_start_from": 0.1}, SHAPE, "none"),
    "focal, gamma 2": ({"focal_gamma": 2.0}, SHAPE, "none"),
    "MTP, one head": ({"mtp_heads": 1, "mtp_weight": 0.2}, SHAPE, "none"),
    "JEPA": ({"jepa_weight": 0.1}, SHAPE, "none"),
    "meta-TTT": ({"meta_weight": 0.5}, SHAPE, "none"),
    "co-occurrence QK": ({"qk_init_tokens": 2_000_000}, SHAPE, "none"),
    "curriculum": ({"curriculum_steps": 0.33}, SHAPE, "none"),
    "loops": ({}, LOOPED, "none"),
    "loops from 0.35": ({"loops_from": 0.35}, LOOPED, "loops"),
}  # fmt: skip
SKIPPED = 2  # first steps, whose time is not that of the others
COSTLY = ("MTP, one head", "JEPA", "meta-TTT", "loops", "loops from 0.35")
ADAPTED = ("none", "meta-TTT")  # whose loss after test-time training is told too
TTT = ("ttt.chunk_tokens=2048", "ttt.batch_seqs=4")


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What all runs share."""

    base: TrainConfig
    tokens: np.ndarray
    val_tokens: np.ndarray
    val_path: Path

    def run(self, name: str, steps: int, seed: int, ttt: bool = False) -> dict[str, float]:
        """Validation loss, CPU seconds per step and, where asked for, the losses of the TTT text."""
        clock: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            result = train(
                self.config(name, steps, seed), FEATURES[name][1], self.tokens, Path(folder) / "run",
                val_tokens=self.val_tokens,
                progress=lambda done, total, note: clock.append(time.process_time()),
            )  # fmt: skip
            assert result.val_loss is not None
            # The last step's time has the validation and the checkpoint in it.
            seconds = (clock[-2] - clock[SKIPPED - 1]) / (len(clock) - 1 - SKIPPED)
            found = {"loss": result.val_loss, "step_seconds": seconds, "steps": float(steps)}
            for kind in ("none", "sgd") if ttt else ():
                report = golfpack.evaluate(
                    result.checkpoint, str(self.val_path), ttt=kind, limit=8_193, legality=False,
                    settings=TTT if kind == "sgd" else (),
                )  # fmt: skip
                found[f"ttt_{kind}"] = report.val_loss
        return found

    def config(self, name: str, steps: int, seed: int) -> TrainConfig:
        """The settings of a run; numbers of steps that are shares become steps."""
        changes: Mapping[str, Any] = {
            k: round(v * steps) if k.endswith("_steps") and isinstance(v, float) else v
            for k, v in FEATURES[name][0].items()
        }
        return dataclasses.replace(self.base, steps=steps, seed=seed, **changes)

    def ratio(self, name: str, steps: int) -> float:
        """CPU time of a step with the feature over that of what it is compared with, runs in turn."""
        pair = name, FEATURES[name][2]
        taken = [[self.run(n, steps, 0)["step_seconds"] for n in pair] for _ in range(2)]
        return min(t[0] for t in taken) / min(t[1] for t in taken)


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):+.4f} ± {deviation:.4f}"


def table(runs: Mapping[str, dict[str, float]], seeds: int) -> str:
    """The table of the seeds of which every run is there."""
    whole = [s for s in range(seeds) if all(f"{name} {s}" in runs for name in FEATURES)]
    lines = [
        f"{len(whole)} seeds; nats per token",
        "",
        "| feature | time a step | steps | loss | difference at equal time |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (_, _, against) in FEATURES.items() if whole else ():
        mine = [runs[f"{name} {s}"] for s in whole]
        mean = statistics.mean(r["loss"] for r in mine)
        ratio, change = 1.0, "-"
        if against:
            pairs = [(r, runs[f"{against} {s}"]) for r, s in zip(mine, whole, strict=True)]
            change = spread([a["loss"] - b["loss"] for a, b in pairs])
            ratio = statistics.mean(a["step_seconds"] / b["step_seconds"] for a, b in pairs)
        what = f"{name} (against {against})" if against not in ("", "none") else name
        told = f"{ratio:.2f} | {mine[0]['steps']:.0f} | {mean:.4f} | {change}"
        lines.append(f"| {what} | {told} |")
    for name in ADAPTED if whole else ():
        gains = [runs[f"{name} {s}"] for s in whole]
        lines.append(
            f"{name}: test-time training changes its loss by "
            + spread([g["ttt_sgd"] - g["ttt_none"] for g in gains])
            + f" to {statistics.mean(g['ttt_sgd'] for g in gains):.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Make the runs that are not there yet, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("train", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--probe", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("features.json"))
    options = parser.parse_args()
    base = TrainConfig(
        steps=options.steps, batch_tokens=512, seq_len=128, threads=1, val_batches=48,
        save_every=1 << 30, log_every=50,
    )  # fmt: skip
    weighing = dataclasses.replace(base, word_start_weight=2.0)
    known = with_word_starts(weighing, load_tokenizer(options.tokenizer)).word_starts
    base = dataclasses.replace(base, word_starts=known)
    tokens, val_tokens = read_tokens(str(options.train)), read_tokens(str(options.val))
    setup = Setup(base, tokens, val_tokens, options.val)
    kept: dict[str, Any] = {"ratios": {}, "runs": {}}
    if options.out.exists():
        kept = json.loads(options.out.read_text())
    for name in COSTLY:
        if name not in kept["ratios"]:
            kept["ratios"][name] = setup.ratio(name, options.probe)
            options.out.write_text(json.dumps(kept, indent=1))

    def steps_of(name: str) -> int:
        """As many as take the time of those that it is compared with."""
        against = FEATURES[name][2]
        theirs = steps_of(against) if against else options.steps
        return round(theirs / kept["ratios"].get(name, 1.0))

    for seed in range(options.seeds):
        for name in FEATURES:
            steps = steps_of(name)
            if f"{name} {seed}" not in kept["runs"]:
                found = setup.run(name, steps, seed, name in ADAPTED)
                kept["runs"][f"{name} {seed}"] = found
                options.out.write_text(json.dumps(kept, indent=1))
        print(table(kept["runs"], seed + 1), flush=True)
    print(f"{time.process_time():.0f} s of CPU time in this call")


if __name__ == "__main__":
    main()
