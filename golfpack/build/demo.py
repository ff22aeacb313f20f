"""`golfpack demo`: from nothing to two artifacts and one table, on text every Python carries."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from golfpack.base.files import make_folder
from golfpack.base.progress import Notify, silent
from golfpack.build.options import BuildOptions, Goal, Inputs, Machine
from golfpack.build.run import build
from golfpack.data.corpus import python_documents, split_documents
from golfpack.data.shards import read_shard, write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.packer.aim import Bytes
from golfpack.train.demo_settings import DEMO_MODEL, DEMO_TRAIN
from golfpack.train.train import about_run
from golfpack.train.trainer import train


@dataclass(frozen=True)
class DemoRow:
    """One model of the demo's last table.

    Attributes:
        model: "float", or the artifact's name.
        bytes: of its file.
        budget_bytes: None for the float model, as are `headroom_bytes`, `quant_gap` and `kl`.
        headroom_bytes: budget minus file.
        val_bpb: bits per byte on held-out documents.
        quant_gap: val_bpb minus that of the float model.
        kl: KL(float || artifact) on held-out calibration tokens, nats per token.
    """

    model: str
    bytes: int
    budget_bytes: int | None
    headroom_bytes: int | None
    val_bpb: float
    quant_gap: float | None
    kl: float | None


VALIDATION_SHARE = 0.05
# Bits per weight of the two artifacts: one that is hard to tell from the float model, one that hurts.
BUDGETS = ("4bpw", "2.5bpw")


def demo(out: Path, *, seed: int, threads: int, notify: Notify = silent) -> list[DemoRow]:
    """Train a small model, build it under two budgets and score all three on held-out documents."""
    make_folder(out)
    tokenizer, train_bin, val_bin = out / "tokenizer.model", out / "train.bin", out / "heldout.bin"
    notify("corpus", 0, 0, "docstrings and help topics of the standard library")
    documents, held_out = split_documents(python_documents(), VALIDATION_SHARE, seed)
    notify("tokenizer", 0, 0, f"{DEMO_MODEL['vocab_size']} pieces")
    train_tokenizer(documents, DEMO_MODEL["vocab_size"], tokenizer)
    sp = load_tokenizer(tokenizer)
    notify("tokens", 0, 0, f"{len(documents) + len(held_out):,} documents")
    write_shard(train_bin, encode_documents(sp, documents))
    write_shard(val_bin, encode_documents(sp, held_out))
    trained = _train(out, train_bin, tokenizer, seed, threads, notify)
    score = _scorer(val_bin, tokenizer, threads, notify)
    float_bpb = score(trained)
    rows = [DemoRow("float", trained.stat().st_size, None, None, float_bpb, None, None)]
    for budget in BUDGETS:
        report = build(
            BuildOptions(
                inputs=Inputs(checkpoint=trained, calib=str(train_bin)),
                goal=Goal(aim=Bytes(budget), seed=seed),
                machine=Machine(threads=threads),
                output=out / f"model-{budget}.golf",
                force=True,  # the demo starts over each time
            ),
            notify,
        )  # fmt: skip
        assert report.artifact is not None
        bpb = score(Path(report.artifact))
        rows.append(
            DemoRow(
                Path(report.artifact).name, report.artifact_bytes, report.budget_bytes,
                report.headroom_bytes, bpb, bpb - float_bpb, report.measured_kl,
            )
        )  # fmt: skip
    return rows


def _train(
    out: Path, shard: Path, tokenizer: Path, seed: int, threads: int, notify: Notify
) -> Path:
    config = replace(DEMO_TRAIN, seed=seed, threads=threads)
    result = train(
        config, DEMO_MODEL, read_shard(shard), _fresh(out / "run"),
        progress=lambda done, total, note: notify("train", done, total, note),
        about=about_run([str(shard)], tokenizer),
    )  # fmt: skip
    return result.checkpoint


def _fresh(folder: Path) -> Path:
    """An empty folder of that name: the demo starts over each time."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def _scorer(tokens: Path, tokenizer: Path, threads: int, notify: Notify) -> Callable[[Path], float]:
    def score(model: Path) -> float:
        options = EvalOptions(model, str(tokens), tokenizer, threads=threads, legality=False)
        found = evaluate(options, notify).val_bpb
        assert found is not None
        return found

    return score
