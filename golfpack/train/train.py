"""`golfpack train`: token shards or text -> a float checkpoint."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from golfpack.base.documents import versions
from golfpack.base.files import make_folder
from golfpack.base.progress import Notify, silent
from golfpack.errors import UsageError
from golfpack.models.ranks import Group, joined
from golfpack.train.checkpoint import Listener
from golfpack.train.choose import Chosen, TrainOptions, choose
from golfpack.train.features.weights import with_word_starts
from golfpack.train.run import training_of
from golfpack.train.sources import read_data
from golfpack.train.tensorboard import tensorboard
from golfpack.train.trainer import TrainResult
from golfpack.train.trainer import train as run_training


def train(
    options: TrainOptions, notify: Notify = silent, listeners: Sequence[Listener] = ()
) -> TrainResult:
    """Train a model of any family; under torchrun, all its processes train one.

    Args:
        options: what to train, on what.
        notify: progress.
        listeners: called with each line of the log.

    Raises:
        UsageError: unusable options or data.
        PeerError: another process failed first.
    """
    with joined(options.device) as group, ExitStack() as ended:
        chosen = choose(options)
        chosen.data.check()
        _check_held_out(options, chosen)
        if options.out is None:
            raise UsageError("a run needs a folder", "add --out FOLDER")
        if options.tensorboard:
            listeners = (*listeners, ended.enter_context(tensorboard(options.out)))
        there = options.out.exists()
        try:
            return _train(
                options, options.out, chosen, notify if group.writes else silent, group, listeners
            )
        except BaseException:
            if group.writes and not there:
                with suppress(OSError):  # not of a run that has written anything
                    options.out.rmdir()
            raise


def _train(
    options: TrainOptions,
    out: Path,
    chosen: Chosen,
    notify: Notify,
    group: Group,
    listeners: Sequence[Listener],
) -> TrainResult:
    make_folder(out)
    data = read_data(chosen.data, out, options.resume, group, notify)
    shape = dict(chosen.shape)
    config = chosen.config
    if data.tokenizer is not None:
        shape.setdefault("vocab_size", data.tokenizer.vocab_size())
        shape |= training_of(chosen.family).from_tokenizer(shape, data.tokenizer)
        config = with_word_starts(config, data.tokenizer)
    return run_training(
        config, shape, data.tokens, out, family=chosen.family,
        val_tokens=data.val_tokens, resume=options.resume, tokenizer=data.tokenizer, group=group,
        progress=lambda done, total, note: notify("train", done, total, note),
        about=about_run(chosen.data.sources, data.path, options.argv, chosen.preset),
        listeners=listeners,
    )  # fmt: skip


def _check_held_out(options: TrainOptions, chosen: Chosen) -> None:
    """Raise UsageError where validation was asked for, and there is nothing to validate on."""
    if chosen.data.val_tokens is not None or chosen.data.val_fraction is not None:
        return
    for name in ("train.val_every", "train.val_batches"):
        if any(s.startswith(f"{name}=") for s in options.settings):
            raise UsageError(
                f"{name} has no tokens to validate on", "add --val-tokens or --val-fraction"
            )


def about_run(
    sources: Sequence[str],
    tokenizer: Path | None,
    argv: Sequence[str] = (),
    preset: str | None = None,
) -> dict[str, Any]:
    """What a run's log says of where its tokens came from, and of the program."""
    return {
        "argv": list(argv),
        "versions": versions(),
        "sources": list(sources),
        "tokenizer": None if tokenizer is None else str(tokenizer),
        "preset": preset,
    }
