"""`golfpack eval` and `golfpack stats` from outside: reports, refusals, and several processes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, trained_looking
from eval.test_dist import torchrun

from golfpack.data.shards import read_shard, write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import ExitCode
from golfpack.eval.scorer import Scorer

TEXT = [
    "the cat sat on the mat and the dog ran to the red hat",
    "we sat there with a cat, a hat and a mat",
    "a caf\u00e9 on the hill, where the cat and the dog had tea",
] * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of 300 tokens with its tokenizer, text and shards, good and bad."""
    path = tmp_path_factory.mktemp("eval")
    (path / "text.txt").write_text("\n\n\n".join(TEXT))
    train_tokenizer(TEXT, 300, path / "t.model")
    train_tokenizer(TEXT, 290, path / "other.model")
    write_shard(path / "val.bin", encode_documents(load_tokenizer(path / "t.model"), TEXT))
    tokens = read_shard(path / "val.bin")
    write_shard(path / "side_val_0.bin", tokens)
    write_shard(path / "side_val_bytes_0.bin", np.where(tokens == 1, 0, 2))
    write_shard(path / "beyond.bin", np.append(tokens, 300))
    write_shard(path / "none.bin", tokens[:0])
    (path / "empty.bin").write_bytes(b"")
    (path / "wrong.bin").write_bytes(b"\1" * 2000)
    for seed in range(3):
        weights = trained_looking({**TINY, "vocab_size": 300}, seed)
        torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, path / f"{seed}.pt")
    return path


BASE = ("--tokens", "val.bin", "--tokenizer", "t.model", "--threads", "1", "--window", "32", "-q")
TTT = {
    "sgd": ("--ttt", "sgd", "--set", "ttt.chunk_tokens=128"),
    "lora": ("--ttt", "lora", "--set", "ttt.rank=4", "--set", "ttt.chunk=8"),
    "phased": (
        "--ttt", "phased", "--set", "ttt.rank=4", "--set", "ttt.chunk=8", "--set",
        "ttt.prefix_docs=6", "--set", "ttt.global_chunk_tokens=40", "--set", "ttt.global_window=16",
    ),
}  # fmt: skip


def refused(run: Run, code: ExitCode, says: str) -> None:
    assert run.returncode == code, run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.stderr
    assert says in errors[0]
    assert run.stdout == ""


def test_the_report_says_everything(inside, folder):
    args = ("--mode", "sliding", "--stride", "8", "--per-document", "--per-position", "--json")
    report = inside("eval", "0.pt", *BASE, *args).report
    tokens = read_shard(folder / "val.bin")
    assert report["mode"] == "sliding"
    assert report["options"] == {"window": 32, "stride": 8}
    assert report["targets"] == report["scored_tokens"] == len(tokens) - 1
    assert (
        report["scored_bytes"] == len("".join(TEXT).encode()) == report["byte_audit"]["table_bytes"]
    )
    bits = report["val_loss"] * report["scored_tokens"] / np.log(2)
    assert report["val_bpb"] == pytest.approx(bits / report["scored_bytes"], rel=1e-12)
    assert [c["passed"] for c in report["legality"]] == [True] * 4
    assert report["bytes_source"] == "table"
    assert report["documents"] == len(TEXT) == len(report["per_document"])
    assert report["round_trip"] == {"documents": len(TEXT) - 1, "lossy": 0}
    assert report["warnings"] == []
    assert report["model_sha256"] == hashlib.sha256((folder / "0.pt").read_bytes()).hexdigest()
    assert report["tokens_sha256"] == hashlib.sha256(tokens.astype("<u2").tobytes()).hexdigest()
    assert report["tokens_per_second"] == pytest.approx(report["targets"] / report["seconds"])
    for table in ("per_document", "per_position"):
        total = sum(row["loss"] * row["tokens"] for row in report[table])
        assert total / report["targets"] == pytest.approx(report["val_loss"])
    assert max(row["context"] for row in report["per_position"]) == 32


def test_what_people_read(inside):
    run = inside(
        "eval", "0.pt", *BASE, "--mode", "sliding", "--stride", "8", "--source-text", "text.txt"
    )
    for says in ("once each", "causality ok", "sliding, window 32, stride 8", "do not round-trip"):
        assert says in run.stdout
    assert run.returncode == 0


@pytest.mark.parametrize("kind", TTT)
def test_training_leaves_the_artifact_alone(inside, folder, kind):
    if not (folder / "x.golf").exists():
        built = inside("build", "0.pt", "--budget", "5bpw", "--data-free", "-o", "x.golf", "-q")
        assert built.returncode == 0, built.stderr
    before = hashlib.sha256((folder / "x.golf").read_bytes()).hexdigest()
    report = inside("eval", "x.golf", *BASE, *TTT[kind], "--json", "--strict").report
    assert hashlib.sha256((folder / "x.golf").read_bytes()).hexdigest() == before
    assert report["model_sha256"] == before
    assert report["ttt"] == kind
    assert all(c["passed"] for c in report["legality"])
    plain = inside("eval", "x.golf", *BASE, "--json", "--no-legality").report
    assert report["val_bpb"] != plain["val_bpb"]
    assert plain["legality"] is None


def test_training_on_nothing_is_a_warning_and_an_error_under_strict(inside):
    run = inside("eval", "0.pt", *BASE, "--ttt", "sgd", "--json")
    (warning,) = run.report["warnings"]
    assert "nothing is trained: one chunk of 32,768 holds all" in warning
    option = warning.partition("--set ")[2].split()[0]
    refused(inside("eval", "0.pt", *BASE, "--ttt", "sgd", "--strict"), ExitCode.STRICT, warning)
    cured = inside("eval", "0.pt", *BASE, "--ttt", "sgd", "--set", option, "--json", "--strict")
    assert cured.report["val_bpb"] < run.report["val_bpb"]


def test_the_gap_to_the_float_model_is_of_the_same_mode(inside):
    inside("build", "0.pt", "--budget", "3bpw", "--data-free", "-o", "y.golf", "-q")
    report = inside("eval", "y.golf", *BASE, *TTT["sgd"], "--float", "0.pt", "--json").report
    alone = inside("eval", "0.pt", *BASE, *TTT["sgd"], "--json").report
    assert report["float_bpb"] == pytest.approx(alone["val_bpb"], rel=1e-9)
    assert report["quant_gap"] == pytest.approx(report["val_bpb"] - report["float_bpb"])


def test_the_same_ids_give_the_same_figures_from_any_file(inside, folder):
    tokens = read_shard(folder / "val.bin")
    np.save(folder / "val.npy", tokens.astype(np.int64))
    (folder / "val.tokens").write_text("\n".join(map(str, tokens)))
    (folder / "val.txt").write_bytes((folder / "text.txt").read_bytes())
    reports = []
    for name in ("val.bin", "val.npy", "val.tokens", "val.txt"):
        run = inside("eval", "0.pt", *BASE, "--tokens", name, "--limit", "400", "--json")
        assert run.returncode == 0, run.stderr
        reports.append(json.loads(run.stdout))
    for key in ("tokens_sha256", "val_loss", "val_bpb", "scored_bytes", "documents", "legality"):
        assert all(r[key] == reports[0][key] for r in reports), key


def test_side_cars_replace_the_table_and_are_no_tokens(inside):
    base = ("0.pt", "--tokens", "side_val_*.bin", *BASE[2:], "--json")
    unused = inside("eval", *base)
    assert any("side_val_bytes_0.bin are not used" in w for w in unused.report["warnings"])
    report = inside("eval", *base, "--byte-counts", "side_val_bytes_*.bin").report
    assert report["targets"] == unused.report["targets"]
    assert report["scored_bytes"] == 2 * (report["targets"] - report["documents"] + 1)
    assert report["bytes_source"] == "side_val_bytes_*.bin"
    assert report["warnings"] == []


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--tokens", "empty.bin"), ExitCode.USAGE, "empty.bin is empty"),
        (("--tokens", "none.bin"), ExitCode.USAGE, "holds 0 tokens"),
        (("--tokens", "wrong.bin"), ExitCode.USAGE, "not a token shard"),
        (("--tokens", "beyond.bin"), ExitCode.USAGE, "outside the vocabulary"),
        (("--tokenizer", "other.model"), ExitCode.USAGE, "290 pieces, the model 300 outputs"),
        (("--byte-counts", "val.bin"), ExitCode.USAGE, "no byte-count shard"),
        (("--ttt", "lora", "--compile"), ExitCode.USAGE, "--compile cannot be used"),
        (("--set", "ttt.lr=1"), ExitCode.USAGE, "without --ttt"),
        (("--ttt", "sgd", "--set", "ttt.lr"), ExitCode.USAGE, "has no value"),
        (("--mode", "sliding", "--stride", "64"), ExitCode.USAGE, "a stride of 64"),
    ],
)
def test_bad_input_is_one_clear_error(inside, args, code, says):
    refused(inside("eval", "0.pt", *BASE, *args), code, says)


def test_an_illegal_run_is_loud_and_with_strict_an_error(inside, monkeypatch):
    honest = Scorer.losses
    monkeypatch.setattr(Scorer, "losses", lambda *args: honest(*args) * 0.9)
    run = inside("eval", "0.pt", *BASE, "--json")
    assert "NOT A LEGAL RUN: the check of normalisation failed" in run.stderr
    assert [c["passed"] for c in run.report["legality"]] == [True, False, True, True]
    refused(inside("eval", "0.pt", *BASE, "--strict"), ExitCode.STRICT, "NOT A LEGAL RUN")


@pytest.mark.slow
def test_unknown_tokens_are_reported(inside, shared):
    tokens = shared / "data/shards/books_sp1024nb_val.bin"
    model = shared / "data/tokenizers/fineweb_1024_bpe.NO_BYTE_FALLBACK.model"
    run = inside(
        "eval", shared / "checkpoints/golf_0.48M/final_model.pt", "--tokens", tokens, "--tokenizer",
        model, "--limit", "18001", "--json", "--no-legality", "-q",
    )  # fmt: skip
    assert run.report["round_trip"] == {"documents": 2, "lossy": 2}
    assert "unknown tokens count 0 bytes" in run.report["warnings"][0]
    assert "2 of 2 documents do not survive" in run.report["warnings"][1]


def test_stats_by_the_rule(inside, folder):
    names = []
    for seed in range(3):
        name = folder / f"run{seed}.json"
        name.write_text(inside("eval", f"{seed}.pt", *BASE, "--json", "--no-legality").stdout)
        names.append(name.name)
    runs = [json.loads((folder / n).read_text()) for n in names]
    mean = np.mean([r["val_bpb"] for r in runs])
    report = inside("stats", *names, "--baseline", "100", "--json").report
    assert report["bpb"]["mean"] == pytest.approx(mean)
    assert report["bpb"]["p_margin"] == pytest.approx(report["nats"]["p_margin"], rel=1e-6)
    assert report["nats"]["mean"] == pytest.approx(np.mean([r["val_loss"] for r in runs]))
    assert report["meets_rule"]
    for baseline in (names[0], f"{runs[0]['val_loss']}nats"):
        report = inside("stats", *names, "--baseline", baseline, "--json").report
        assert report["bpb"]["baseline"] == pytest.approx(runs[0]["val_bpb"])
        assert not report["meets_rule"]
    shown = inside("stats", *names, "--baseline", "100").stdout
    assert "the rule is met" in shown
    assert "0.00721 bits per token" in shown


def test_what_stats_refuses(inside, folder):
    run = json.loads(inside("eval", "0.pt", *BASE, "--json", "--no-legality").stdout)
    (folder / "a.json").write_text(json.dumps(run))
    (folder / "b.json").write_text(json.dumps({**run, "tokens_sha256": "other"}))
    (folder / "c.json").write_text("{}")
    (folder / "d.json").write_text(json.dumps({**run, "val_loss": 2.0, "val_bpb": 1.0}))
    illegal = {"val_loss": 2.1, "val_bpb": 1.1, "legality": [{"name": "causal", "passed": False}]}
    (folder / "e.json").write_text(json.dumps({**run, **illegal}))
    for args, says in (
        (("a.json", "--baseline", "1.1"), "no spread"),
        (("a.json", "a.json", "--baseline", "1.1"), "all 2 runs"),
        (("a.json", "b.json", "--baseline", "1.1"), "another stream"),
        (("a.json", "c.json", "--baseline", "1.1"), "no evaluation report"),
        (("a.json", "t.model", "--baseline", "1.1"), "is not JSON"),
        (("a.json", "d.json", "a.json", "--baseline", "1.1"), "is the run of a.json again"),
        (("a.json", "e.json", "--baseline", "1.1"), "no legal evaluation: causal failed"),
        (("a.json", "a.json", "--baseline", "low"), "neither a report nor a figure"),
    ):
        refused(inside("stats", *args), ExitCode.USAGE, says)


_RANK = """
import os, sys
from golfpack.errors import UsageError
if os.environ["RANK"] == "1":
    from golfpack.eval import modes
    def broken(*args):
        raise UsageError("the disk is on fire", "use another one")
    modes.score_windows = broken
from golfpack.cli import main
main()
"""


@pytest.mark.slow
def test_ranks_end_together_and_one_of_them_speaks(folder):
    args = ("eval", "0.pt", *BASE, "--mode", "sliding", "--stride", "8", "--json")
    run = torchrun("-m", "golfpack", *args, cwd=folder)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["ranks"] == 2
    assert all(c["passed"] for c in report["legality"])
    (folder / "broken.py").write_text(_RANK)
    run = torchrun("broken.py", *args, cwd=folder)
    assert run.returncode != 0
    assert run.stdout == ""
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: rank 1 of 2: the disk is on fire"], run.stderr
