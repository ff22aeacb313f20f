"""A folder in the challenge's form: what is in it, counts and is refused, and what verify finds."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, trained_looking
from submission.tiny import make_home

import golfpack
from golfpack.data.shards import write_shard
from golfpack.errors import BudgetError, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.submission import folder as folder_module
from golfpack.submission.count import count
from golfpack.submission.folder import write_submission
from golfpack.submission.parts import Author, SubmissionOptions
from golfpack.submission.verify import Stretch, verify_submission


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory)


@pytest.fixture(scope="module")
def written(home, tmp_path_factory):
    """A folder and its report, with everything that can go in."""
    path = tmp_path_factory.mktemp("written")
    reports = []
    for seed in range(3):
        report = evaluate(
            EvalOptions(home / "x.golf", str(home / "held.bin"), home / "t.model", limit=200)
        )
        known = {**vars(report), "val_bpb": report.val_bpb + 0.01 * seed}
        known["val_loss"] += 0.01 * seed
        reports.append(path / f"seed{seed}.json")
        reports[-1].write_text(json.dumps(known))
    (path / "train.log").write_text("step 1\n")
    (path / "extra.py").write_text("print()\n")
    options = SubmissionOptions(
        artifact=home / "x.golf", folder=path / "sub", checkpoint=home / "c.pt",
        settings=("ttt.chunk_tokens=64",), ttt="sgd", budget=60_000, code=(path / "extra.py",),
        logs=(*reports, path / "train.log"), baseline="99",
        author=Author("A. Person", "aperson", "a name", "It is small."),
    )  # fmt: skip
    return options, write_submission(options)


def test_the_folder_has_what_the_challenge_asks_for(written, home):
    options, report = written
    names = sorted(p.relative_to(options.folder).as_posix() for p in options.folder.rglob("*.*"))
    assert names == [
        "README.md", "extra.py", "logs/seed0.json", "logs/seed1.json", "logs/seed2.json",
        "logs/train.log", "model.golf", "requirements.txt", "submission.json", "train_gpt.py",
    ]  # fmt: skip
    assert (options.folder / "model.golf").read_bytes() == (home / "x.golf").read_bytes()
    told = json.loads((options.folder / "submission.json").read_text())
    seen = count(options.folder)
    assert seen.files == ["train_gpt.py", "model.golf", "extra.py"]
    assert seen.code == (options.folder / "train_gpt.py").stat().st_size + len("print()\n")
    assert (told["bytes_total"], told["bytes_code"]) == (seen.total, seen.code)
    assert (report.total_bytes, report.headroom_bytes) == (seen.total, 60_000 - seen.total)
    assert told["val_bpb"] == pytest.approx(report.val_bpb, abs=1e-7)
    assert told["val_bpb_std"] == pytest.approx(0.01)
    assert len(told["seed_results"]) == 3
    assert (told["author"], told["name"]) == ("A. Person", "a name")
    assert told["golfpack"]["ttt"]["options"]["chunk_tokens"] == 64
    sha256 = hashlib.sha256((home / "c.pt").read_bytes()).hexdigest()
    assert told["golfpack"]["checkpoint_sha256"] == report.checkpoint_sha256 == sha256
    words = (options.folder / "README.md").read_text()
    for said in (
        "It is small.",
        f"{seen.total:,}",
        "The rule",
        "is met",
        "chunk_tokens = 64",
        sha256,
    ):
        assert said in words
    assert (options.folder / "requirements.txt").read_text() == "torch>=2.5\nnumpy>=2.0\n"


def test_what_is_whole_passes_and_runs_bare(written, home):
    options, _ = written
    stretch = Stretch(
        tokens=str(home / "held.bin"), tokenizer=home / "t.model", limit=250, window=32, stride=8
    )
    report = verify_submission(options.folder, stretch)
    assert report.passed, report.checks
    assert report == golfpack.verify(
        options.folder, tokens=home / "held.bin", tokenizer=home / "t.model", limit=250, window=32,
        stride=8,
    )  # fmt: skip
    names = [c.name for c in report.checks]
    assert names[-6:] == ["count", "table", "bare run", "plain", "sliding", "ttt"]
    assert all(c.status == "ok" for c in report.checks)
    assert report.bytes == count(options.folder).total


def failed(folder, stretch=None):
    return [c.name for c in verify_submission(folder, stretch).checks if c.status == "failed"]


def test_what_is_not_fails_by_name(written, home, tmp_path):
    options, _ = written
    stretch = Stretch(tokens=str(home / "held.bin"), tokenizer=home / "t.model", limit=100)

    def copy(name):
        shutil.copytree(options.folder, tmp_path / name)
        return tmp_path / name

    longer = copy("longer")
    with (longer / "train_gpt.py").open("ab") as file:
        file.write(b"#" * 60_000)
    assert failed(longer) == ["count", "table"]
    side = copy("side")
    (side / "table.bin").write_bytes(b"free bytes")
    assert failed(side) == ["table"]
    damaged = copy("damaged")
    blob = bytearray((damaged / "model.golf").read_bytes())
    blob[-100] ^= 1
    (damaged / "model.golf").write_bytes(blob)
    assert "file" in failed(damaged, stretch)
    with pytest.raises(UsageError, match="is text"):
        failed(damaged, replace(stretch, tokens="held.txt"))
    with pytest.raises(UsageError, match="no shard matches"):
        failed(damaged, replace(stretch, tokens=str(home / "none.bin")))
    whole, other = options.folder, tmp_path / "other.bin"
    write_shard(other, np.full(500, 400))
    for wrong, match in (
        ({"tokens": str(other)}, "token"),
        ({"window": 16, "stride": 17}, "stride"),
        ({"tokenizer": home / "c.pt"}, "is not a SentencePiece model"),
    ):
        with pytest.raises(UsageError, match=match):
            failed(whole, replace(stretch, **wrong))
    silent = copy("silent")
    _put(silent, b"import torch\n")
    assert failed(silent, stretch) == ["bare run"]
    leaning = copy("leaning")
    _put(leaning, b"import golfpack\n")
    (check,) = (c for c in verify_submission(leaning, stretch).checks if c.status == "failed")
    assert "No module named 'golfpack'" in check.detail
    lying = copy("lying")
    _put(lying, b"print('plain val_loss:1.0 val_bpb:1.0 tokens:99 bytes:270')\n")
    assert failed(lying, stretch) == ["plain"]


def _put(folder, code):
    """Another script, as submission.json would tell of it."""
    told = json.loads((folder / "submission.json").read_text())
    (folder / "train_gpt.py").write_bytes(code)
    seen = count(folder)
    told |= {"bytes_total": seen.total, "bytes_code": seen.code}
    (folder / "submission.json").write_text(json.dumps(told))


def test_what_cannot_be_a_submission_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "make_script", lambda *_: b"pass\n")
    options = {"artifact": home / "x.golf", "folder": tmp_path / "s"}

    def refused(match, kind=UsageError, **changes):
        with pytest.raises(kind, match=match):
            write_submission(SubmissionOptions(**{**options, **changes}))

    refused("over the budget of 20,000", BudgetError, budget="20kB")
    assert not (tmp_path / "s").exists()
    refused("is of a checkpoint", settings=("model.softcap=15",))
    (tmp_path / "run.py").write_text("")
    refused("a file of its kind counts as code", logs=(tmp_path / "run.py",))
    (tmp_path / "a.log").write_text("")
    refused("two logs are named a.log", logs=(tmp_path / "a.log", tmp_path / "a.log"))
    refused("no code", code=(tmp_path / "b.py",))
    (tmp_path / "train_gpt.py").write_text("")
    refused("a name of the submission's own", code=(tmp_path / "train_gpt.py",))
    write_submission(SubmissionOptions(**options))
    refused("is not empty")
    (tmp_path / "s" / "hidden.bin").write_bytes(b"x")
    refused("holds hidden.bin, which would count as code", force=True)
    with pytest.raises(UsageError, match=r"it has no train_gpt\.py"):
        count(home)
    (tmp_path / "s" / "link").symlink_to(home)
    with pytest.raises(UsageError, match="is a link"):
        count(tmp_path / "s")


def test_another_models_checkpoint_is_refused(home, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "make_script", lambda *_: b"pass\n")
    weights = trained_looking({**TINY, "vocab_size": 300}, 7)
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, tmp_path / "o.pt")
    with pytest.raises(UsageError, match="is not of the artifact's model"):
        write_submission(
            SubmissionOptions(
                artifact=home / "x.golf", folder=tmp_path / "s", checkpoint=tmp_path / "o.pt"
            )
        )
