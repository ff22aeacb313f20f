"""Under --json, stdout of every command is one document that its schema accepts."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, trained_looking
from jsonschema import Draft202012Validator

from golfpack.base.schema import schema_of
from golfpack.build import demo as demo_module
from golfpack.build.demo import DemoRow
from golfpack.cli import COMMANDS
from golfpack.commands.documents import FILES, REPORTS
from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer

TEXT = [f"{a} {b} went to the {c}" for a in ("a cat", "one dog", "the fox") for b in "xyz"
        for c in ("river", "village", "red hat", "mountain", "sea")]  # fmt: skip
CALIB = ("--calib", "train.bin", "--calib-tokens", "128", "--threads", "1", "-q")
SCORE = ("--tokens", "held.bin", "--tokenizer", "t.model", "--limit", "200", "--window", "32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, its tokenizer and two shards."""
    path = tmp_path_factory.mktemp("json")
    train_tokenizer(TEXT, 290, path / "t.model")
    tokens = encode_documents(load_tokenizer(path / "t.model"), TEXT)
    write_shard(path / "train.bin", np.tile(tokens, 30))
    write_shard(path / "held.bin", tokens[:300])
    weights = trained_looking({**TINY, "vocab_size": 290}, 7)
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, path / "c.pt")
    return path


@pytest.fixture
def printed(inside, monkeypatch, folder):
    """printed(command, args): the document on stdout, checked against the command's schema."""
    monkeypatch.setenv("GOLFPACK_CACHE", str(folder / "cache"))

    def run(command, *args):
        done = inside(command, *args, "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        Draft202012Validator(schema_of(REPORTS[command])).validate(document)
        return document

    return run


def test_every_command_that_prints_json_has_a_schema():
    printing = {n for n, command, _ in COMMANDS if "json" in inspect.signature(command).parameters}
    assert printing == set(REPORTS)


def test_build_and_inspect(printed, folder):
    report = printed("build", "c.pt", "--budget", "4bpw", *CALIB)
    assert json.loads((folder / "c.report.json").read_text()) == report
    size = sum(t["bytes"] for t in report["tensors"]) + report["fixed_bytes"]
    assert size == report["artifact_bytes"] == (folder / "c.golf").stat().st_size
    assert size + report["code_bytes"] + report["headroom_bytes"] == report["budget_bytes"]
    seen = printed("inspect", "c.golf")
    assert (seen["tensors"], seen["errors"]) == (report["tensors"], "c.report.json")
    assert printed("inspect", "c.pt")["errors"] is None
    assert printed("unpack", "c.golf", "--force")["files"]["c.unpacked.safetensors"] > size
    printed("build", "c.pt", "--lossless", "-o", "l.golf", *CALIB[4:])
    assert printed("export", "c.golf", "--out", "dist", "-q")["packages"] == []


def test_a_failed_build(inside, folder):
    run = inside("build", "c.pt", "--budget", "900", "--json", "-o", "f.golf", *CALIB)
    assert run.returncode == 3
    report = json.loads(run.stdout)
    assert report == json.loads((folder / "f.failed.report.json").read_text())
    Draft202012Validator(schema_of(FILES["NAME.failed.report.json"])).validate(report)
    assert (report["status"], report["exit_code"]) == ("failed", 3)
    assert report["error"] in run.stderr
    assert report["shortfall"] > 0
    before = sorted(folder.iterdir())
    dry = inside("build", "c.pt", "--budget", "900", "--json", "-o", "g.golf", "--dry-run", *CALIB)
    assert (json.loads(dry.stdout)["error"], sorted(folder.iterdir())) == (report["error"], before)
    # An option that was not understood is no build that failed, and a table's reader wants no JSON.
    assert inside("build", "c.pt", "--budget", "9potato", "--json", *CALIB).stdout == ""
    assert inside("build", "c.pt", "--budget", "900", "-o", "f.golf", *CALIB).stdout == ""


def test_plan(printed):
    assert len(printed("plan", "c.pt", "--budget", "4bpw", *CALIB)["tensors"]) > 5


def test_eval_and_stats(printed, folder):
    extra = ("--per-document", "--per-position", "--threads", "1", "-q")
    report = printed("eval", "c.pt", *SCORE, *extra)
    (folder / "e.json").write_text(json.dumps(report))
    streamed = printed("eval", "c.pt", *SCORE, *extra, "--mode", "stream", "--kv-cache", "q8_0")
    assert streamed["options"]["kv_cache"] == "k=q8_0/24,v=q8_0/24"
    worse = {**report, "val_loss": report["val_loss"] + 1e-3, "val_bpb": report["val_bpb"] + 1e-3}
    (folder / "w.json").write_text(json.dumps(worse))
    printed("stats", "e.json", "w.json", "--baseline", "1.1")


def test_compare(printed):
    document = printed(
        "compare", "c.pt", "--recipes", "int8-zlib", "--budget", "9bpw", "--budget", "900",
        *SCORE, *CALIB, "--kl-tokens", "64",
    )  # fmt: skip
    assert [bool(r["refused"]) for r in document["rows"]] == [False, True]


def test_train_and_import(printed):
    shape = [f"model.{k}={v}" for k, v in {**TINY, "vocab_size": 290}.items() if k != "seq_len"]
    settings = ("train.seq_len=16", "train.batch_tokens=32", *shape)
    changed = [x for s in settings for x in ("--set", s)]
    done = printed(
        "train", "--tokens", "train.bin", "--out", "run", "--steps", "2", "--threads", "1", "-q",
        *changed,
    )  # fmt: skip
    assert done["steps"] == 2
    assert printed("runreport", "run")["last_step"] == 2
    assert printed("import", done["checkpoint"], "-o", "i.safetensors")["tensors"] > 5


def test_size(printed, folder):
    document = printed(
        "size", "--budget", "20kB", "--tokens", "train.bin", "--tokenizer", "t.model", "--steps", "2",
        "--shapes", "2x32", "--out", "ladder", "--set", "train.seq_len=16", "--set",
        "train.batch_tokens=32", "--limit", "200", *CALIB[2:],
    )  # fmt: skip
    assert (document["best"], document["recommended"]) == ("2x32", "2x32")
    assert Path(folder / document["png"]).read_bytes().startswith(b"\x89PNG")


def test_demo(printed, monkeypatch):
    # The real one trains for minutes.
    rows = [DemoRow("float", 9, None, None, 1.5, None, None), DemoRow("m", 3, 4, 1, 1.6, 0.1, 0.2)]
    monkeypatch.setattr(demo_module, "demo", lambda *args, **options: rows)
    assert [r["model"] for r in printed("demo")] == ["float", "m"]


def test_sweep_diff_verify_list_and_env(printed):
    quick = ("--recipe", "sdclip-brotli", *SCORE, *CALIB)
    swept = printed("sweep", "c.pt", "--budgets", "3bpw,4bpw,1kB", "--out", "sw", *quick)
    small, large = (row["artifact"] for row in swept["rows"][1:])
    printed("sweep", "c.pt", "--budgets", "3bpw,4bpw", "--predict", *CALIB)
    assert not printed("diff", small, large, "-q")["same"]
    printed("diff", "c.pt", large, "-q")
    report = small.replace(".golf", ".report.json")
    assert printed("verify", small, "--report", report, "--against", "c.pt", "-q")["passed"]
    printed("list")
    printed("list", "families")
    printed("env")


def test_generate_and_tune_cache(printed):
    told = printed(
        "generate", "c.pt", "--tokenizer", "t.model", "--prompt", "a cat", "--tokens", "5"
    )
    assert len(told["tokens"]) <= 5
    tuned = printed("tune-cache", "c.pt", "--context", "16", "--threads", "1", "-q")
    assert tuned["bytes"] > 0
    assert (
        printed("generate", "c.pt", "--prompt-ids", "1", "--kv-cache", "tuned", "--tokens", "3")[
            "kv_cache"
        ]
        == tuned["policy"]
    )
