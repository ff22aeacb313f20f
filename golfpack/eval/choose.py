"""From what the user asked for to a mode: --mode, --window, --stride, --ttt and its options."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from golfpack.base.convert import make, parse_value
from golfpack.errors import UsageError, unreadable
from golfpack.eval.modes import Mode, Windowed
from golfpack.eval.ttt_lora import LoraOptions, LoraTtt
from golfpack.eval.ttt_phased import PhasedOptions, PhasedTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt
from golfpack.eval.windows import lay_windows

MODES = ("plain", "sliding", "stream")
DEFAULT_STRIDE = 64
# Kinds of test-time training and their options.
KINDS: dict[str, type] = {"sgd": SgdOptions, "lora": LoraOptions, "phased": PhasedOptions}


@dataclass(frozen=True)
class TttRecipe:
    """A kind of test-time training with the options a file and the user gave, unchecked."""

    name: str
    kind: str
    about: str
    options: Mapping[str, Any]


def ttt_names() -> list[str]:
    """Names of the files of options that come with golfpack."""
    folder = resources.files("golfpack") / "ttt"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_ttt(name_or_path: str, settings: Sequence[str] = ()) -> TttRecipe | None:
    """Options of test-time training by name, or from a .toml file; None for "none".

    Args:
        settings: "OPTION=VALUE", which take the place of the file's.

    Raises:
        UsageError: no such name or file, not TOML, an unknown kind, or settings without training.
    """
    if name_or_path == "none":
        if settings:
            raise UsageError(f"--set ttt.{settings[0]} sets nothing without --ttt", "add --ttt sgd")
        return None
    try:
        table = tomllib.loads(_read(name_or_path))
    except tomllib.TOMLDecodeError as e:
        raise UsageError(f"{name_or_path} is not valid TOML: {e}", "see docs/eval_rules.md") from e
    kind, options = table.get("kind"), table.get("options", {})
    if kind not in KINDS or not isinstance(options, dict):
        raise UsageError(
            f"{name_or_path}: the kind of test-time training cannot be {kind!r}",
            f"kinds: {', '.join(KINDS)}; options are a table [options]",
        )
    unknown = sorted(set(table) - {"name", "kind", "about", "options"})
    if unknown:
        raise UsageError(f"{name_or_path}: unknown key {unknown[0]!r}", "put it under [options]")
    given = dict(s.split("=", 1) for s in settings)
    name = str(table.get("name", Path(name_or_path).stem))
    chosen = {**options, **{k: parse_value(v) for k, v in given.items()}}
    return TttRecipe(name, kind, str(table.get("about", "")), chosen)


def _read(name_or_path: str) -> str:
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        try:
            return Path(name_or_path).read_text()
        except OSError as e:
            raise unreadable(Path(name_or_path), e) from e
        except UnicodeDecodeError as e:
            raise UsageError(f"{name_or_path} is no text", "see docs/eval_rules.md") from e
    names = ttt_names()
    if name_or_path not in names:
        close = difflib.get_close_matches(name_or_path, names, 1)
        raise UsageError(
            f"unknown test-time training {name_or_path!r}",
            f"did you mean {close[0]!r}?" if close else f"known: none, {', '.join(names)}",
        )
    return (resources.files("golfpack") / "ttt" / f"{name_or_path}.toml").read_text()


def choose_mode(
    mode: str,
    window: int | None,
    stride: int | None,
    ttt: TttRecipe | None,
    trained_length: int,
    longest: int | None,
) -> Mode:
    """The mode that the options describe.

    Args:
        window: None for the model's trained length.
        stride: None for 64, or for the window where that is shorter.
        longest: positions the model can take, or None for no limit.

    Raises:
        UsageError: options that do not go together, an unknown one, or a window beyond `longest`.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}", f"the modes are: {', '.join(MODES)}")
    if mode == "plain" and stride is not None:
        raise UsageError("plain windows have no stride", "add --mode sliding")
    if mode == "stream":
        raise UsageError(
            "--mode stream reads token by token: it goes with no stride and no --ttt",
            "leave them out",
        )
    if ttt is not None and ttt.kind != "sgd":
        return _by_document(mode, window, ttt, trained_length, longest)
    window = checked_window(window, trained_length, longest)
    if mode == "plain":
        stride = window
    elif stride is None:
        stride = min(DEFAULT_STRIDE, window)
    lay_windows(1, window, stride)  # refuses a stride beyond its window, before anything is read
    if ttt is None:
        return Windowed(window, stride)
    return SgdTtt(window, stride, make(SgdOptions, ttt.options, f"--ttt {ttt.name}"))


def _by_document(
    mode: str, window: int | None, ttt: TttRecipe, trained_length: int, longest: int | None
) -> Mode:
    """LoRA or phased training, whose windows end at the chunks of documents."""
    if mode != "plain":
        raise UsageError(
            f"--ttt {ttt.name} scores documents chunk by chunk, not in {mode} windows",
            "leave --mode out",
        )
    length = window or trained_length
    options = {"window": length, **ttt.options}
    if ttt.kind == "phased":
        options = {"global_window": options["window"], **options}
    if window is not None:
        options["window"] = window
    made = make(KINDS[ttt.kind], options, f"--ttt {ttt.name}")
    _check_length(max(made.window, getattr(made, "global_window", 0)), longest)
    return PhasedTtt(made) if ttt.kind == "phased" else LoraTtt(made)


def checked_window(window: int | None, trained_length: int, longest: int | None) -> int:
    """Tokens per window, the trained length where none is given. Raises UsageError beyond `longest`."""
    window = window or trained_length
    _check_length(window, longest)
    return window


def _check_length(window: int, longest: int | None) -> None:
    if longest is not None and window > longest:
        raise UsageError(
            f"a window of {window} is beyond the {longest} positions this model has learned",
            f"use --window {longest} or less",
        )
