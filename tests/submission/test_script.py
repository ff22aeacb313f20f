"""A script scores as golfpack does, alone and on two ranks."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from submission.tiny import make_home

from golfpack.artifact import open_model
from golfpack.data.shards import read_shard, write_shard
from golfpack.errors import UsageError
from golfpack.eval.choose import load_ttt
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.export.decoder import uses
from golfpack.export.minify import minify
from golfpack.export.quiet import quiet
from golfpack.packer.format.loader import load
from golfpack.submission.make import USUAL, Training, make_script, readable_script

LINE = re.compile(r"(\w+) val_loss:(\S+) val_bpb:(\S+) tokens:(\d+) bytes:(\d+)")
SGD = ("chunk_tokens=64", "lr=0.05", "batch_seqs=2", "epochs=2")
KINDS = {
    "sgd": SGD,
    "lora": ("rank=3", "chunk=8", "window=24", "batch_docs=4", "lr=0.01"),
    "phased": (
        "rank=3", "chunk=8", "window=24", "batch_docs=4", "prefix_docs=6", "phases=2", "lr=0.01",
        "global_window=8", "global_chunk_tokens=16", "global_lr=0.05",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory)


@pytest.fixture
def told(home, monkeypatch):
    """The environment that a script reads."""
    for name in ("BYTE_FILES", "SCORES", "STRIDE", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAL_FILES", str(home / "held.bin"))
    monkeypatch.setenv("TOKENIZER_PATH", str(home / "t.model"))
    monkeypatch.setenv("LIMIT", "331")


def training(home, kind):
    return Training.of(load_ttt(kind, KINDS[kind]), open_model(home / "x.golf"))


def run(script: bytes | str, folder: Path, capsys) -> dict[str, tuple[float, ...]]:
    """What a script prints, run in this process, beside the artifact in `folder`."""
    capsys.readouterr()
    exec(script, {"__name__": "__main__", "__file__": str(folder / "train_gpt.py")})
    return scores(capsys.readouterr().out)


def scores(text: str) -> dict[str, tuple[float, ...]]:
    return {m[1]: tuple(map(float, m.groups()[1:])) for m in LINE.finditer(text)}


def own(home, name, kind, window=None, stride=None):
    """What golfpack gives for a score."""
    slides = name == "sliding" or (name == "ttt" and kind == "sgd")
    ttt = {"ttt": kind, "settings": tuple(f"ttt.{s}" for s in KINDS[kind])} if name == "ttt" else {}
    report = evaluate(
        EvalOptions(
            home / "x.golf", str(home / "held.bin"), home / "t.model",
            mode="sliding" if slides else "plain", stride=stride if slides else None, limit=331,
            window=None if ttt and kind != "sgd" else window, legality=False, **ttt,
        )
    )  # fmt: skip
    return report.val_loss, report.val_bpb, report.scored_tokens, report.scored_bytes


@pytest.fixture
def place(home, tmp_path):
    shutil.copyfile(home / "x.golf", tmp_path / "model.golf")
    return tmp_path


@cache
def small(home, kind):
    """A script before it is packed, which takes long."""
    artifact = load(home / "x.golf")
    source = readable_script(uses(artifact), open_model(home / "x.golf"), training(home, kind))
    return minify(quiet(source))


# Phased is more than lora, and a folder's verification (test_submission_folder.py) scores under sgd.
@pytest.mark.parametrize(
    "kind", ["phased", *(pytest.param(k, marks=pytest.mark.slow) for k in ("sgd", "lora"))]
)
def test_every_score_is_golfpacks(home, place, told, monkeypatch, capsys, kind):
    monkeypatch.setenv("WINDOW", "32")
    monkeypatch.setenv("STRIDE", "12")
    found = run(small(home, kind), place, capsys)
    assert list(found) == ["plain", "sliding", "ttt"]
    for name, score in found.items():
        assert score == pytest.approx(own(home, name, kind, 32, 12), abs=1e-7), name
    assert found["ttt"][0] != found["sliding"][0]


def test_a_script_is_three_lines_that_read_what_they_are_told(
    home, place, told, monkeypatch, capsys
):
    model, artifact = open_model(home / "x.golf"), load(home / "x.golf")
    assert uses(artifact) == USUAL
    script = make_script(USUAL, model, Training())
    assert script.count(b"\n") == 3
    monkeypatch.setenv("SCORES", "plain")
    assert list(run(script, place, capsys)) == ["plain"]
    folder = place / "fineweb10B_sp290"
    folder.mkdir()
    shutil.copyfile(home / "held.bin", folder / "fineweb_val_000.bin")
    monkeypatch.delenv("VAL_FILES")
    monkeypatch.setenv("DATA_PATH", str(folder))
    monkeypatch.delenv("LIMIT")
    assert run(script, place, capsys)["plain"][2] == 699
    monkeypatch.setenv("VAL_FILES", str(place / "none_*.bin"))
    with pytest.raises(Exception, match=r"no shard matches .*none_\*\.bin"):
        run(script, place, capsys)
    monkeypatch.setenv("VAL_FILES", str(home / "held.bin"))
    whole = (place / "model.golf").read_bytes()
    for at in (5, 30, 200, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        blob = bytearray(whole)
        blob[at] ^= 1
        (place / "model.golf").write_bytes(blob)
        with pytest.raises(Exception):  # noqa: B017, PT011 (its name is shortened)
            run(script, place, capsys)
    (place / "model.golf").write_bytes(whole[:-1])
    with pytest.raises(Exception):  # noqa: B017, PT011
        run(script, place, capsys)


def test_side_cars_count_in_the_tables_place(home, place, told, monkeypatch, capsys):
    tokens = read_shard(home / "held.bin")
    write_shard(place / "held_bytes_0.bin", np.where(tokens == 1, 0, 3))
    monkeypatch.setenv("BYTE_FILES", str(place / "held_bytes_*.bin"))
    monkeypatch.setenv("SCORES", "plain")
    found = run(small(home, "sgd"), place, capsys)["plain"]
    assert found[3] == 3 * int((tokens[1:331] != 1).sum())


def test_another_family_has_no_script(home):
    model = open_model(home / "x.golf")
    model = replace(model, family=replace(model.family, name="llama"))
    with pytest.raises(UsageError, match="family golf; this is of family llama"):
        Training.of(None, model)


@pytest.mark.slow
def test_a_script_is_the_same_every_time(home):
    model = open_model(home / "x.golf")
    assert make_script(USUAL, model, Training()) == make_script(USUAL, model, Training())


@pytest.mark.slow
def test_two_ranks_score_as_one(home, place, told, monkeypatch, capsys):
    script = make_script(USUAL, open_model(home / "x.golf"), training(home, "sgd"))
    (place / "train_gpt.py").write_bytes(script)
    monkeypatch.setenv("WINDOW", "32")
    alone = run(script, place, capsys)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(place / "train_gpt.py")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    both = scores(done.stdout)
    assert list(both) == list(alone)
    for name, score in both.items():
        assert score == pytest.approx(alone[name], rel=1e-6), name
