"""The commands themselves, as a user has them: from text to a submission that scores itself.

A small model is trained on sources of Python's own library for an artifact. Every mode of `eval` takes
that on the device and on the CPU, a submission's script scores it, and `generate` and `tune-cache` run.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.measure import Findings, Job
from benchmarks.texts import python_sources
from golfpack.data.shards import write_shard
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import encode_documents, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
PIECES = 512
# Of the CPU, for each command.
THREADS = 2
# Characters of text to train on, and to score.
TRAIN, HELD_OUT = (1_500_000, 20_000), (20_000, 2_000)
# bfloat16 on the device against float32 on the CPU: mean loss, nats per token.
CLOSE = 0.01
# What a step of test-time training makes of such differences.
CLOSE_TRAINED = 0.03
SMALL = [
    word
    for option in ("num_layers=3", "dim=128", "num_heads=4", "num_kv_heads=2", "mlp_hidden=384")
    for word in ("--set", f"model.{option}")
]
EVALS = {
    "plain": ["--mode", "plain"],
    "sliding": ["--mode", "sliding", "--stride", "64"],
    "ttt sgd": ["--ttt", "sgd"],
    "ttt lora": ["--ttt", "lora"],
    "ttt phased": ["--ttt", "phased"],
    "quantized cache": ["--mode", "stream", "--kv-cache", "q8_0"],
}
SCORE = re.compile(r"^(\w+) val_loss:(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Shop:
    """Where the commands work."""

    job: Job
    folder: Path

    @property
    def workers(self) -> int:
        """Commands at a time; torch stalls where threads share cores."""
        return max(1, self.job.threads // THREADS)

    def golfpack(self, *words: str | Path, device: str | None = None) -> dict[str, Any]:
        """The JSON report of a command. Raises RuntimeError with its words where it fails."""
        told = ["--device", device] if device else []
        return json.loads(self.python("-m", "golfpack", *map(str, words), *told, "--json"))

    def python(self, *words: str, **variables: str) -> str:
        """What a program prints."""
        known = {**os.environ, "PYTHONPATH": _path(), "OMP_NUM_THREADS": str(THREADS), **variables}
        ran = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=known, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if ran.returncode:
            raise RuntimeError(f"{' '.join(words)}: {ran.stderr[-2000:]}")
        return ran.stdout


def _path() -> str:
    """Where Python finds golfpack, and whatever else was on its way here."""
    known = os.environ.get("PYTHONPATH")
    return str(ROOT) if not known else f"{ROOT}{os.pathsep}{known}"


def commands(job: Job, found: Findings) -> None:
    """Train, evaluate in every mode, generate, tune a cache, and run a submission."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(job, Path(folder))
        size, held_out = (pair[job.smoke] for pair in (TRAIN, HELD_OUT))
        text = "".join(python_sources())[: size + held_out]
        (shop.folder / "train.txt").write_text(text[:size], encoding="utf-8")
        (shop.folder / "held_out.txt").write_text(text[size:], encoding="utf-8")
        began = time.perf_counter()
        steps, batch = job.pick(300, 4), job.pick(16_384, 512)
        report = shop.golfpack(
            "train", "--text", "train.txt", "--train-vocab", str(PIECES), "--steps", str(steps),
            "--for", "3bpw", "--set", f"train.batch_tokens={batch}", "--out", "run",
            "--threads", str(job.threads), *SMALL, device=job.device,
        )  # fmt: skip
        found.figure("train --for 3bpw", time.perf_counter() - began, "s", kl=report["kl"])
        found.check("train --for: KL of the artifact, nats", report["kl"], 0.5)
        _evaluated(shop, found)


def _evaluated(shop: Shop, found: Findings) -> None:
    device, names = shop.job.device, list(EVALS)
    fixed = [
        "eval", "run/model.golf", "--tokens", "held_out.txt", "--tokenizer", "run/tokenizer.model",
        "--threads", str(THREADS),
    ]  # fmt: skip

    def score(name: str, where: str) -> float:
        report = shop.golfpack(*fixed, *EVALS[name], device=where)
        if not all(check["passed"] for check in report["legality"]):
            raise RuntimeError(f"not legal: {report['legality']}")
        return report["val_loss"]

    began = time.perf_counter()
    with ThreadPoolExecutor(shop.workers) as pool:
        ours = [pool.submit(score, name, device) for name in names]
        host = [pool.submit(score, name, "cpu") for name in names]
        script = pool.submit(_submission, shop)
        text = pool.submit(_generated, shop)
        tuned = pool.submit(_tuned, shop)
        found_by = {}
        for name, a, b in zip(names, ours, host, strict=True):
            found_by[name] = _of(found, f"eval {name}", [a, b])
            if found_by[name] is not None:
                here, there = found_by[name]
                limit = CLOSE_TRAINED if name.startswith("ttt") else CLOSE
                found.check(f"eval {name}: loss against the CPU's", abs(here - there), limit)
                found.figure(f"eval {name}", here, "nats/token", cpu=there)
        scores = _of(found, "submission", [script])
        missing = {"plain", "sliding", "ttt"} - set(scores[0] if scores else ())
        found.check("submission's script: scores missing", len(missing), 0)
        for name, loss in scores[0].items() if scores else ():
            known = found_by["ttt sgd" if name == "ttt" else name]
            off = abs(loss - known[0]) if known else math.nan
            found.check(f"submission's script, {name}: loss against eval's", off, CLOSE)
        for name, future in (("generate", text), ("tune-cache", tuned)):
            _of(found, name, [future])
    found.figure("all other commands, several at a time", time.perf_counter() - began, "s")


def _of(found: Findings, name: str, futures: Sequence[Any]) -> list[Any] | None:
    """Results; None where a command failed, which is a failed check and ends nothing else."""
    try:
        return [f.result() for f in futures]
    except Exception as error:
        print(f"  {name}: {error}", flush=True)
        found.check(f"{name} runs", 1.0, 0.0)
        return None


def _submission(shop: Shop) -> dict[str, float]:
    """Losses that a submission's script prints, by mode."""
    shop.golfpack(
        "export", "run/model.golf", "--submission", "entry", "--ttt", "sgd", "--budget", "5MB",
        "--checkpoint", "run/final_model.pt",
    )  # fmt: skip
    tokenizer = load_tokenizer(shop.folder / "run/tokenizer.model")
    documents = list(read_documents([str(shop.folder / "held_out.txt")]))
    write_shard(shop.folder / "val.bin", encode_documents(tokenizer, documents))
    printed = shop.python(
        "entry/train_gpt.py", VAL_FILES="val.bin", TOKENIZER_PATH="run/tokenizer.model"
    )
    return {name: float(loss) for name, loss in SCORE.findall(printed)}


def _generated(shop: Shop) -> bool:
    words = (
        "generate", "run/model.golf", "--prompt", "def ", "--tokens", "32", "--temperature", "0",
        "--tokenizer", "run/tokenizer.model",
    )  # fmt: skip
    return bool(shop.golfpack(*words, device=shop.job.device))


def _tuned(shop: Shop) -> bool:
    words = ("tune-cache", "run/model.golf", "--context", "128", "--tokens", "held_out.txt")
    return bool(shop.golfpack(*words, "--tokenizer", "run/tokenizer.model", device=shop.job.device))
