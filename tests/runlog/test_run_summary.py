"""Run Summaries: three originals, byte for byte from what they were made of, and what changes them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from golfpack.errors import UsageError
from golfpack.runlog.summary import Summary, summary_markdown

# File, last step, best validation loss of the run; the first was written before there was any.
ORIGINALS = [
    ("000_cc2415a03ec7b439.txt", None, None),
    ("001_275ea9dedca58a20.txt", 6000, 5.878566074371338),
    ("002_b9d258a484f4a924.txt", 6000, 4.33490834236145),
]
FILES = "`train.jsonl`, `analysis.h5` (if enabled), `analysis.png`, `best.pt`, `last.pt`"


def original(folder: Path, name: str) -> str:
    """The text, with the multiplication sign that a wrong code page had garbled."""
    text = (folder / "docs" / "seeds" / name).read_text(encoding="utf-8")
    return text.replace("\u00c3\u2014", "\u00d7")


def made_of(text: str, last_step: int | None, best_val: float | None) -> Summary:
    """What an original was made of; nothing of its results or sizes is read."""
    head = dict(re.findall(r"^- ([A-Z][\w ]+): `(.*)`$", text.split("## ")[0], re.MULTILINE))
    model, args = (json.loads(x) for x in re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    return Summary(
        created=head["Created"],
        out_dir=head["Out dir"],
        device=head["Device"],
        command=head["Command"].split(" "),
        size=head.get("Size preset"),
        exp=head.get("Experiment"),
        model=model,
        args=args,
        last_step=last_step,
        best_val=best_val,
        files=FILES,
    )


@pytest.mark.parametrize(("name", "last_step", "best_val"), ORIGINALS)
def test_originals_byte_for_byte(
    shared: Path, name: str, last_step: int | None, best_val: float | None
) -> None:
    text = original(shared, name)
    assert summary_markdown(made_of(text, last_step, best_val)).encode() == text.encode()


TINY = Summary(
    created="2026-01-02T03:04:05+00:00",
    out_dir="runs/a b",
    device="cpu",
    command=("train.py", "--data", "my text.txt"),
    size=None,
    exp=None,
    model={
        "attn_mode": "decoupled", "n_layer": 2, "d_model": 64, "n_head": 4, "attn_dim": 32,
        "sem_dim": 16, "geo_dim": 16, "block_size": 128,
    },
    args={"kv_cache": "fp16"},
    last_step=7,
    best_val=3.0,
    files="`train.jsonl`",
)  # fmt: skip


def figures(summary: Summary) -> list[str]:
    """The last code of each line of results."""
    body = summary_markdown(summary).split("## Results")[1]
    return [re.findall(r"`([^`]*)`", line)[-1] for line in body.splitlines() if "`" in line]


def test_figures_follow_the_configuration() -> None:
    # 2 layers, 128 tokens, 2 bytes: 2 * 64 values a token for standard attention, 64 for this.
    before = ["7", "20.09", "train.jsonl", "64.00KB", "32.00KB", "2.00\u00d7", "31.25MB"]
    assert figures(TINY) == before
    wider = replace(TINY, model={**TINY.model, "attn_dim": 96})
    assert figures(wider)[3:] == ["64.00KB", "64.00KB", "1.00\u00d7", "62.50MB"]
    longer = replace(TINY, model={**TINY.model, "block_size": 256})
    assert figures(longer)[3:5] == ["128.0KB", "64.00KB"]
    assert "@ ctx=256" in summary_markdown(longer)
    # 8 bits and a scale per 16 values, no residual: 18 bytes where fp16 takes 32.
    packed = replace(TINY, args={"kv_cache": "q8_0", "kv_residual": 0, "kv_qblock": 16})
    assert figures(packed)[4:6] == ["18.00KB", "3.56\u00d7"]
    assert figures(replace(TINY, best_val=21.0))[1] == "inf"


def test_a_summary_without_results_says_nothing_of_them() -> None:
    text = summary_markdown(replace(TINY, last_step=None, best_val=None))
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Model Config", "Training Args"]
    assert "Size preset" not in text
    assert "train.py --data 'my text.txt'`" in text


def test_a_run_without_validation_has_its_training_loss() -> None:
    assert figures(replace(TINY, best_val=None, final_loss=2.0))[:2] == ["7", "7.39"]


def test_results_need_a_known_attention() -> None:
    with pytest.raises(UsageError, match="unknown attention mode"):
        summary_markdown(replace(TINY, model={**TINY.model, "attn_mode": "linear"}))
