"""From options to a mode: defaults of the records, files, and what does not go together."""

import pytest

from golfpack.errors import UsageError
from golfpack.eval.choose import choose_mode, load_ttt, ttt_names
from golfpack.eval.modes import Windowed
from golfpack.eval.ttt_lora import LoraTtt
from golfpack.eval.ttt_phased import PhasedTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt


def choose(mode="plain", window=None, stride=None, ttt="none", settings=(), longest=None):
    return choose_mode(mode, window, stride, load_ttt(ttt, settings), 1024, longest)


def test_windows_and_their_defaults():
    assert choose() == Windowed(1024, 1024)
    assert choose(window=512) == Windowed(512, 512)
    assert choose("sliding") == Windowed(1024, 64)
    assert choose("sliding", 32) == Windowed(32, 32)
    assert choose("sliding", 512, 256) == Windowed(512, 256)


def test_the_records_defaults():
    sgd = choose("sliding", ttt="sgd")
    assert sgd == SgdTtt(1024, 64, SgdOptions(0.005, 0.9, 3, 32768, 32, 1.0, 0))
    lora = choose(ttt="lora").ttt
    assert (lora.rank, lora.alpha, lora.lr, lora.chunk, lora.window) == (96, 144.0, 1e-4, 48, 1024)
    old = choose(ttt="lora-0317").ttt
    assert (old.rank, old.chunk, old.targets) == (8, 256, ("attn_q", "attn_v", "head"))
    phased = choose(ttt="phased").ttt
    assert [phased.prefix_docs * (i + 1) // phased.phases for i in range(3)] == [833, 1666, 2500]
    assert (phased.global_lr, phased.global_window) == (0.001, 1024)


@pytest.mark.parametrize("name", ttt_names())
def test_every_file_of_options_says_what_it_is(name):
    recipe = load_ttt(name)
    assert recipe is not None
    assert recipe.name == name
    assert recipe.about.endswith(".")
    choose(ttt=name)


def test_settings_and_windows_replace_what_files_say(tmp_path):
    assert choose(ttt="sgd", settings=["lr=0.01", "epochs=1"]).ttt == SgdOptions(0.01, epochs=1)
    mode = choose(ttt="lora", window=256, settings=["window=99", 'targets=["attn_q"]'])
    assert isinstance(mode, LoraTtt)
    assert (mode.ttt.window, mode.ttt.targets) == (256, ("attn_q",))
    own = tmp_path / "mine.toml"
    own.write_text('kind = "phased"\n[options]\nrank = 4\nwindow = 300\n')
    mode = choose(ttt=str(own))
    assert isinstance(mode, PhasedTtt)
    assert (mode.ttt.rank, mode.ttt.window, mode.ttt.global_window) == (4, 300, 300)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "sliding_window"}, "unknown mode"),
        ({"stride": 8}, "plain windows have no stride"),
        ({"mode": "sliding", "window": 8, "stride": 9}, "a stride of 9 does not fit"),
        ({"window": 65, "longest": 64}, "beyond the 64 positions"),
        ({"ttt": "lora", "window": 65, "longest": 64}, "beyond the 64 positions"),
        ({"ttt": "phased", "longest": 64}, "a window of 1024 is beyond"),
        ({"ttt": "lora", "mode": "sliding"}, "chunk by chunk"),
        ({"ttt": "lroa"}, "unknown test-time training 'lroa'"),
        ({"ttt": "./none.toml"}, "there is no file"),
        ({"settings": ["lr=1"]}, "sets nothing without --ttt"),
        ({"ttt": "sgd", "settings": ["lrate=1"]}, "no option 'lrate'"),
        ({"ttt": "sgd", "settings": ["lr=fast"]}, "cannot be 'fast'"),
        ({"ttt": "sgd", "settings": ["epochs=0"]}, "epochs cannot be 0"),
        ({"ttt": "sgd", "settings": ["momentum=1.0"]}, "momentum cannot be 1.0"),
        ({"ttt": "sgd", "settings": ["chunk_tokens=1023"]}, "less than the window"),
        ({"ttt": "lora", "settings": ["rank=0"]}, "rank cannot be 0"),
        ({"ttt": "lora", "settings": ["chunk=2000"]}, "shorter than a chunk"),
        ({"ttt": "lora", "settings": ['targets=["attn"]']}, "targets cannot be"),
        ({"ttt": "phased", "settings": ["global_chunk_tokens=8"]}, "holds no sequence"),
        ({"ttt": "phased", "settings": ["global_epochs=0"]}, "epochs cannot be 0"),
    ],
)
def test_what_cannot_be(options, says):
    with pytest.raises(UsageError, match=says):
        choose(**options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind = ", "not valid TOML"),
        ('kind = "adam"', "cannot be 'adam'"),
        ('kind = "sgd"\nlr = 1', "unknown key 'lr'"),
    ],
)
def test_files_that_are_wrong(tmp_path, text, says):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_ttt(str(path))
