"""Watching a run: TensorBoard's scalars are the log's, and a dashboard leaves a terminal as it was."""

import importlib.util
import io
import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from train.test_all_families import HELD_OUT, MODELS, TOKENS, Stop, settings_of, stop_at

from golfpack.commands.render.live import Dashboard, curve
from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.train import tensorboard
from golfpack.train.choose import TrainOptions
from golfpack.train.sources import DataOptions
from golfpack.train.tensorboard import scalars
from golfpack.train.train import train as train_command
from golfpack.train.trainer import train

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    f"--set={s}"
    for s in (
        "model.num_layers=1", "model.dim=16", "model.num_heads=2", "model.mlp_hidden=32",
        "model.vocab_size=32", "train.seq_len=16", "train.batch_tokens=64", "train.val_every=5",
        "train.analyse_every=5", "train.log_every=1",
    )
]  # fmt: skip
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (folder / "train.jsonl").read_text().splitlines()]


def run(folder: Path, **options: Any) -> None:
    train(
        settings_of("alph", val_every=6, analyse_every=12), MODELS["alph"], TOKENS, folder,
        family=FAMILIES["alph"], val_tokens=HELD_OUT, **options,
    )  # fmt: skip


def test_scalars_are_the_logs(tmp_path: Path) -> None:
    """Whatever listens gets every line of the log, and makes the named scalars of it."""
    heard: list[Any] = []
    run(tmp_path / "a", listeners=[heard.append])
    assert heard == lines_of(tmp_path / "a")
    found = {(name, x["step"]): v for x in heard for name, v in scalars(x).items()}
    assert {name.partition("/")[0] for name, _ in found} == {
        "loss",
        "ppl",
        "perf",
        "optim",
        "analysis",
    }
    step = next(x for x in heard if x["type"] == "step" and x["step"] == 6)
    assert found["loss/train", 6] == step["loss"]
    assert found["loss/val", 6] == step["val_loss"]
    assert found["ppl/train", 6] == pytest.approx(math.exp(step["loss"]))
    assert found["perf/tok_s", 6] == step["tokens_per_second"]
    analysis = next(x for x in heard if x["type"] == "analysis" and x["step"] == 12)
    assert found["analysis/attn_entropy_mean", 12] == analysis["attn_entropy_mean"]
    assert scalars({"type": "analysis", "step": 3, "error": "shape"}) == {}


def test_without_the_extra_the_option_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        return None if name == "tensorboard" else importlib.util.find_spec(name)

    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", absent)
    data = DataOptions(tokens=str(tmp_path / "missing.bin"))
    with pytest.raises(UsageError, match="--tensorboard needs tensorboard"):
        train_command(TrainOptions(tmp_path / "run", data=data, tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_events_of_a_resumed_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stop), tensorboard.tensorboard(tmp_path) as listen:
        run(tmp_path, progress=stop_at(13), listeners=[listen])
    with tensorboard.tensorboard(tmp_path) as listen:
        run(tmp_path, resume=True, listeners=[listen])
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0})
    events.Reload()
    expected = {(n, x["step"]): v for x in lines_of(tmp_path) for n, v in scalars(x).items()}
    found = {(n, e.step): e.value for n in events.Tags()["scalars"] for e in events.Scalars(n)}
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value == pytest.approx(expected[key], rel=1e-6)


def test_a_dashboard_shows_what_was_logged(tmp_path: Path) -> None:
    console = Console(
        force_terminal=True, width=120, height=40, file=io.StringIO(), highlight=False
    )
    with Dashboard(console) as dashboard:
        for kind in ({"type": "sample", "step": 24, "text": "\x1b[31mred"},):
            dashboard.listen(kind)
        run(tmp_path, listeners=[dashboard.listen],
            progress=lambda done, total, note: dashboard("train", done, total, note))  # fmt: skip
        with console.capture() as held:
            console.print(dashboard.frame())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", held.get())
    last = [x for x in lines_of(tmp_path) if x["type"] == "step"][-1]
    best = min(x["val_loss"] for x in lines_of(tmp_path) if "val_loss" in x)
    for title in ("train", "perf", "memory", "evaluation", "24/24", "MiB", "\\x1b[31mred"):
        assert title in text
    for figure in (last["loss"], last["val_loss"], best):
        assert f"{figure:.4f}" in text


def test_the_curve_of_losses() -> None:
    assert curve([3.0, 2.0, 1.0, 1.0]) == "█▄▁▁"
    assert curve([1.0]) == curve([math.nan]) == ""


def command(folder: Path, *more: str) -> list[str]:
    np.save(folder / "t.npy", TOKENS)
    return [
        sys.executable, "-m", "golfpack", "train", "--family", "alph", "--tokens",
        str(folder / "t.npy"), "--val-fraction", "0.1", "--out", str(folder / "run"), "--threads", "1",
        "--live", *SETTINGS, *more,
    ]  # fmt: skip


ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
               "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "OMP_NUM_THREADS": "1"}  # fmt: skip


def at_a_terminal(folder: Path, end: int | None, *more: str) -> tuple[int, str]:
    """Exit code and what a terminal got; `end` is sent once the run is under way."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(folder, *more), stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    got, sent, until = b"", False, time.monotonic() + 300
    try:
        while time.monotonic() < until:
            if select.select([ours], [], [], 0.5)[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
                if not piece:
                    break
                got += piece
            log = folder / "run" / "train.jsonl"
            if (
                end is not None
                and not sent
                and log.exists()
                and log.read_text().count('"step"') > 5
            ):
                process.send_signal(end)
                sent = True
        os.close(ours)
        return process.wait(120), got.decode("utf-8", "replace")
    finally:
        process.kill()  # one that did not end would train on


@pytest.mark.parametrize(
    ("end", "code", "more"),
    [
        pytest.param(None, 0, ("--steps", "6"), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, ("--steps", "100000"), marks=pytest.mark.slow),
        (signal.SIGTERM, 143, ("--steps", "100000")),
        pytest.param(
            None, 2, ("--steps", "50", "--set=train.matrix_lr=1e30"), marks=pytest.mark.slow
        ),
    ],
    ids=["end", "ctrl-c", "sigterm", "error"],
)
def test_a_terminal_is_as_it_was(
    end: int | None, code: int, more: tuple[str, ...], tmp_path: Path
) -> None:
    found, text = at_a_terminal(tmp_path, end, *more)
    assert found == code, text[-2000:]
    assert text.count(HIDE) == text.count(SHOW) >= 1
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert "evaluation" in text


def test_off_a_terminal_there_are_no_control_codes(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--steps", "6"), capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "--live needs a terminal" in done.stderr
    assert "wrote" in done.stdout
