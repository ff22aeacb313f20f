"""`list` and `env`: everything that can be named says what it is; nothing private is told."""

import json
import os

import pytest
import torch
from test_docs import TABLES

from golfpack.commands import complete
from golfpack.errors import ExitCode
from golfpack.eval.choose import MODES, ttt_names
from golfpack.inspect.listing import KINDS, first_sentence, list_names
from golfpack.models import FAMILIES
from golfpack.packer.recipe import recipe_names
from golfpack.train.presets import preset_names
from golfpack.train.sources import TOKENIZER_KINDS

# Tables of what users can name -> the kind that lists them.
KIND_OF = {
    "codec": "codecs", "filter": "filters", "scheme": "schemes", "clip": "clips", "pass": "passes",
    "family": "families", "recipe": "recipes",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.mark.parametrize("table", KIND_OF)
def test_whatever_can_be_named_is_listed(table):
    listed = {e.name for e in list_names(KIND_OF[table]).entries}
    assert listed - {"rans"} == set(TABLES[table])


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_says_what_it_is_in_one_line(kind):
    report = list_names(kind)
    assert report.used
    for entry in report.entries:
        assert len(entry.about) > 10, entry.name
        assert "\n" not in entry.about
        assert entry.about.endswith("."), entry.name


def test_kinds_and_what_they_hold_are_listed(inside):
    kinds = inside("list", "--json").report
    assert [e["name"] for e in kinds["entries"]] == list(KINDS)
    ttt = inside("list", "ttt", "--json").report
    assert [e["name"] for e in ttt["entries"]] == ttt_names()
    run = inside("list", "recipes")
    assert "rd " in run.stdout
    assert run.stdout.splitlines()[-1] == "used in: --recipe NAME"
    run = inside("list", "potatoes")
    assert run.returncode == ExitCode.USAGE
    assert "hint: kinds: recipes, families," in run.stderr
    assert inside("list", "recipe").stderr.endswith("hint: did you mean 'recipes'?\n")


def test_a_first_sentence_ends_where_the_next_begins():
    assert first_sentence("A thing (v. 1.5)\n    of two lines. More.\n\n    Attributes:") == (
        "A thing (v. 1.5) of two lines."
    )


def test_completion_knows_the_tables_it_repeats():
    assert complete.family("") == sorted(FAMILIES)
    assert list(complete.KINDS) == list(KINDS)
    assert complete.MODES == MODES
    assert [name for name, _ in complete.recipe("")] == recipe_names()
    assert [name for name, _ in complete.ttt("")] == ["none", *ttt_names()]
    assert [name for name, _ in complete.preset("")] == preset_names()
    assert complete.TOKENIZER_KINDS == TOKENIZER_KINDS


@pytest.mark.parametrize("family", FAMILIES)
def test_completion_offers_the_families_that_can_be_trained(family, inside):
    run = inside("train", "--family", family, "--out", "run", "--tokens", "none.bin")
    refused = f"family {family!r} cannot be trained" in run.stderr
    assert refused == (family not in complete.TRAINED_FAMILIES)


@pytest.mark.parametrize(
    ("words", "completes"),
    [
        ("build x.pt --recipe sdclip-l", "sdclip-lqer-pergroup"),
        ("compare x.pt --recipes rd,int8", "rd,int8-zlib"),
        ("eval x.golf --ttt ph", "phased"),
        ("eval x.golf --mode sl", "sliding"),
        ("build x.pt --model ll", "llama"),
        ("list fi", "filters"),
        ("train --family go", "golf"),
        ("train --preset tiny-bottleneck-m", "tiny-bottleneck-mini"),
        ("swe", "sweep"),
    ],
)
def test_the_shell_completes_names(words, completes, inside, monkeypatch):
    typed = f"golfpack {words}"
    monkeypatch.setenv("_GOLFPACK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert inside().stdout.split() == [completes]


def test_env_says_what_a_bug_report_needs_and_nothing_private(inside, monkeypatch, tmp_path):
    cache = tmp_path / "home" / "stats"
    cache.mkdir(parents=True)
    (cache / "calib-x.npz").write_bytes(b"12345")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GOLFPACK_CACHE", str(cache))
    monkeypatch.setenv("A_SECRET", "swordfish")
    found = inside("env", "--json").report
    assert found["cache"] == {"folder": "~/stats", "files": 1, "bytes": 5}
    assert found["packages"]["torch"]
    assert found["cpu"]["cores"] == os.cpu_count()
    assert len(found["cuda"]["devices"]) == torch.cuda.device_count()
    shown = inside("env").stdout
    assert f"torch {found['packages']['torch']}" in shown
    for text in (json.dumps(found), shown):
        assert "swordfish" not in text
        assert str(tmp_path) not in text
