"""`golfpack train`: token shards or text -> a float checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.artifact import split_settings
from golfpack.base.convert import make, parse_value
from golfpack.base.documents import versions
from golfpack.base.progress import Notify, silent
from golfpack.data.shards import read_tokens
from golfpack.data.text import read_documents
from golfpack.data.tokenizer import Tokenizer, encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import UsageError
from golfpack.models.choose import choose_family
from golfpack.models.device import resolve_device
from golfpack.models.ranks import Group, joined
from golfpack.train.config import TrainConfig
from golfpack.train.run import training_of
from golfpack.train.trainer import TrainResult
from golfpack.train.trainer import train as run_training

DEFAULT_STEPS = 1000


@dataclass(frozen=True)
class TrainOptions:
    """What to train on and where to; see `golfpack train --help`.

    Attributes:
        family: name of a model family, or "FILE.py:CLASS".
        model_args: keyword arguments of CLASS.
        tokens: glob of token shards, or None with `text`.
        tokenizer: SentencePiece model of the tokens; made from the text when `train_vocab` is set.
        train_vocab: train a tokenizer of that many pieces on the text first.
        compile_mode: of torch.compile, or None.
        settings: "model.option=value" (the family's config) and "train.option=value" (TrainConfig).
        argv: of the command, for the log.
    """

    out: Path
    family: str = "golf"
    model_args: tuple[str, ...] = ()
    tokens: str | None = None
    text: tuple[Path, ...] = ()
    val_tokens: str | None = None
    tokenizer: Path | None = None
    train_vocab: int | None = None
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    resume: bool = False
    settings: tuple[str, ...] = ()
    compile_mode: str | None = None
    argv: list[str] = field(default_factory=list)


def train(options: TrainOptions, notify: Notify = silent) -> TrainResult:
    """Train a model of any family; under torchrun, all its processes train one.

    Raises:
        UsageError: unusable options or data.
        PeerError: another process failed first.
    """
    with joined(options.device) as group:
        return _train(options, notify if group.writes else silent, group)


def _train(options: TrainOptions, notify: Notify, group: Group) -> TrainResult:
    family = choose_family(options.family, options.model_args)
    assert family is not None  # options name one
    training = training_of(family)
    model_settings, rest = split_settings(options.settings)
    config = _config(options, rest)
    _check_sources(options)
    options.out.mkdir(parents=True, exist_ok=True)
    if not group.writes:
        group.wait()  # for the tokenizer that the first process may have to train
    tokens, tokenizer, path = _tokens(options, notify)
    if group.writes:
        group.wait()
    val_tokens = None if options.val_tokens is None else read_tokens(options.val_tokens)
    shape: dict[str, Any] = {**training.shape, **model_settings}
    if tokenizer is not None:
        shape.setdefault("vocab_size", tokenizer.vocab_size())
    sources = [options.tokens] if options.tokens is not None else list(map(str, options.text))
    return run_training(
        config, shape, tokens, options.out, family=family, val_tokens=val_tokens,
        resume=options.resume, tokenizer=tokenizer, group=group,
        progress=lambda done, total, note: notify("train", done, total, note),
        about=about_run(sources, path, options.argv),
    )  # fmt: skip


def about_run(
    sources: Sequence[str], tokenizer: Path | None, argv: Sequence[str] = ()
) -> dict[str, Any]:
    """What a run's log says of where its tokens came from, and of the program."""
    return {
        "argv": list(argv),
        "versions": versions(),
        "sources": list(sources),
        "tokenizer": None if tokenizer is None else str(tokenizer),
    }


def _config(options: TrainOptions, settings: list[str]) -> TrainConfig:
    values: dict[str, Any] = {
        "steps": options.steps,
        "minutes": options.minutes,
        "seed": options.seed,
        "threads": options.threads,
        "device": resolve_device(options.device).name,
        "compile_mode": options.compile_mode,
    }
    if options.steps is None and options.minutes is None:
        values["steps"] = DEFAULT_STEPS
    for setting in settings:
        key, _, value = setting.partition("=")
        name = key.removeprefix("train.")
        if name == key:
            raise UsageError(
                f"--set {setting!r} sets nothing here", "use model.OPTION or train.OPTION"
            )
        values[name] = parse_value(value)
    return make(TrainConfig, values, "train")


def _check_sources(options: TrainOptions) -> None:
    if (options.tokens is None) == (not options.text):
        raise UsageError("give either --tokens or --text", "--tokens 'shards/*_train_*.bin'")
    if options.train_vocab is not None and options.tokens is not None:
        raise UsageError("--train-vocab needs --text to train on", "leave it out with --tokens")
    if options.train_vocab is not None and options.tokenizer is not None:
        raise UsageError(
            "--tokenizer and --train-vocab are two tokenizers", "give one of them, not both"
        )
    if options.text and options.train_vocab is None and options.tokenizer is None:
        raise UsageError(
            "text needs a tokenizer", "add --tokenizer FILE.model, or --train-vocab 1024"
        )


def _tokens(
    options: TrainOptions, notify: Notify
) -> tuple[np.ndarray, Tokenizer | None, Path | None]:
    """The training stream, and the tokenizer with its file where one is known."""
    path = options.tokenizer
    if options.tokens is not None:
        known = None if path is None else load_tokenizer(path)
        return read_tokens(options.tokens), known, path
    documents = list(read_documents(options.text))
    if path is None:
        assert options.train_vocab is not None  # _check_sources saw to it
        path = options.out / "tokenizer.model"
        if not (options.resume and path.exists()):
            notify("tokenizer", 0, 0, f"{options.train_vocab} pieces")
            train_tokenizer(documents, options.train_vocab, path)
    sp = load_tokenizer(path)
    notify("tokens", 0, 0, f"{len(documents):,} documents")
    return encode_documents(sp, documents), sp, path
