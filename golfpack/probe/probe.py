"""`golfpack probe`: which options a checkpoint was trained with, by its own loss on text."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.artifact import split_settings
from golfpack.base.convert import check_counts
from golfpack.base.documents import SCHEMA_VERSION, read_json
from golfpack.base.files import write_atomically
from golfpack.base.progress import Notify, silent
from golfpack.data.stream import read_stream
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.models.base import Family, MissingOptions
from golfpack.models.checkpoint import load_checkpoint, read_sidecar, sidecar_path
from golfpack.models.folder import find_tokenizer
from golfpack.models.model import Model
from golfpack.probe.trials import (
    TRAINED,
    Change,
    Losses,
    Margin,
    Trial,
    descend,
    not_worse,
    race,
)

# Targets of a sequence: enough for rotary options to matter, and no longer than models are trained at,
# for beyond that the wrong ones can be better.
LENGTH = 256
# Tokens of the rounds of a race.
ROUNDS = (1024, 8192)
# On the checkpoints at hand, right options lost at most 0.52% of the loss to a sibling (docs/LOG.md).
MARGIN = Margin(share=0.01, usual_share=0.003, errors=5.0)
# What a build and an evaluation look at in passing: their text may be of a foreign domain.
QUICK_ROUNDS = (256, 1024)
QUICK_MARGIN = Margin(0.02, 0.02, 4.0)
# A large model's siblings are first looked at on so few tokens: those that are clearly worse need no
# more, and a model of random weights shows that it is one. At 36M random weights the look took 26 s of
# CPU without, and takes 2.4 s.
LARGE, FIRST_TOKENS = 8_000_000, 64
# Of an option's many values, a quick look takes so many.
QUICK_VALUES = 3


@dataclass(frozen=True)
class ProbeReport:
    """What text tells of a checkpoint's options.

    Attributes:
        checkpoint: its path.
        family: of the model.
        tokens: how many targets there were at most.
        guessed: the options that nobody told and no default stands for, where the search began.
        config: the whole config, where it ended.
        loss_before: nats per token at the start, on the tokens of the last round.
        loss_after: at the end.
        changes: the steps between.
        first: siblings of the start's config in one option each, the best first.
        trials: the same of the end's config: by how much its options are settled.
        config_file: what was written: every option that shapes do not tell.
    """

    checkpoint: str
    family: str
    tokens: int
    guessed: dict[str, Any]
    config: dict[str, Any]
    loss_before: float
    loss_after: float
    changes: list[Change]
    first: list[Trial]
    trials: list[Trial]
    config_file: str
    schema_version: int = SCHEMA_VERSION


def probe(
    path: Path,
    tokens: str,
    tokenizer: Path | None = None,
    settings: tuple[str, ...] = (),
    family: Family | None = None,
    *,
    limit: int = ROUNDS[-1],
    output: Path | None = None,
    force: bool = False,
    notify: Notify = silent,
) -> ProbeReport:
    """Try the siblings of every open option on text, and write what the checkpoint was trained with.

    Args:
        tokens: token shard, glob of shards or text that the model predicts well: of its own domain.
        tokenizer: for text, and for options that depend on it.
        settings: "model.option=value": what is known. Where text says otherwise it is an error.
        limit: most tokens to score under one config.
        output: the config file; None for `<stem>.config.json` beside the checkpoint.
        force: replace a config file that says something else.

    Raises:
        UsageError: an unusable checkpoint or text, an option that was told and that text contradicts,
            or a model to which nothing is open, or that tells nothing.
    """
    check_counts(limit=(limit, 2))
    overrides, rest = split_settings(settings)
    if rest:
        raise UsageError(f"--set {rest[0]!r} sets nothing here", "use --set model.OPTION=VALUE")
    tokenizer = tokenizer or find_tokenizer(path)
    told = {**read_sidecar(path), **overrides}
    model, guessed = _begin(path, overrides, family, tokenizer)
    if model.family.siblings is None:
        raise UsageError(
            f"{path} is of family {model.family.name}, whose options shapes or the file itself tell",
            "there is nothing to probe",
        )
    sequences = _sequences(tokens, tokenizer, model, limit)
    losses = Losses(model, sequences, guessed.keys() - told.keys())
    on_trial = lambda done, total, note: notify("probe", done, total, note)  # noqa: E731
    steps = list(descend(model, losses, _rounds(losses, ROUNDS), MARGIN, on_trial))
    config = steps[-1].config
    before, after = (float(losses(c, len(losses))[0].mean()) for c in (model.config, config))
    guess = math.log(config["vocab_size"])
    if not after < guess - TRAINED:
        raise UsageError(
            f"the model predicts {tokens} no better than a guess does: {after:.3f} nats per token, and "
            f"{guess:.3f} for a guess among {config['vocab_size']:,} tokens",
            "give text of its own domain and tokenizer; of an untrained model nothing can tell",
        )
    for name in told:
        if config[name] != model.config[name]:
            raise UsageError(
                f"{_setting(name, config)} lowers the loss from {before:.4f} to {after:.4f} nats per "
                f"token on {sequences[:, 1:].size:,} tokens; {name}={model.config[name]} was told",
                f"correct {name} in --set or in {sidecar_path(path).name}, or leave it out",
            )
    # Some options matter only beside what was found, a slope beside an activation.
    asked = {*model.assumed, *guessed, *told, *model.family.siblings(config)}
    answered = {k: value for k, value in config.items() if k in asked}
    written = _write(output or sidecar_path(path), answered, force=force)
    return ProbeReport(
        checkpoint=str(path),
        family=model.family.name,
        tokens=int(sequences[:, 1:].size),
        guessed=guessed,
        config=config,
        loss_before=before,
        loss_after=after,
        changes=[s.change for s in steps if s.change is not None],
        first=steps[0].trials,
        trials=steps[-1].trials,
        config_file=str(written),
    )


def refuse_wrong_assumptions(model: Model, sequences: np.ndarray) -> None:
    """Look whether text contradicts what was assumed of a model: the cheap part of `probe`.

    Args:
        sequences: (n, T) token ids, of which a thousand are looked at.

    Raises:
        UsageError: a sibling of an assumed option is clearly better. Of an untrained model, or of one
            that the text is foreign to, nothing can be told, and nothing is raised.
    """
    if model.family.siblings is None or not model.assumed:
        return
    length = min(LENGTH + 1, _longest(model) + 1, sequences.shape[1])
    if length < 2 or len(sequences) == 0:
        return
    most = max(1, QUICK_ROUNDS[-1] // (length - 1))
    picked = sequences[np.linspace(0, len(sequences) - 1, min(most, len(sequences))).astype(int)]
    losses = Losses(model, picked[:, :length])
    siblings = {
        name: _few(values)
        for name, values in model.family.siblings(model.config).items()
        if name in model.assumed
    }
    if model.spec.numel > LARGE and length - 1 > FIRST_TOKENS:
        siblings = not_worse(losses.short(FIRST_TOKENS), model.config, siblings, QUICK_MARGIN)
    rounds = _rounds(losses, QUICK_ROUNDS)
    trials = race(
        losses, model.config, siblings, rounds, QUICK_MARGIN, lambda *_: None, only_better=True
    )
    better = [t for t in trials if t.better]
    if not better:
        return
    best = better[0]
    now = _setting(best.option, model.config)
    raise UsageError(
        f"{_setting(best.option, {best.option: best.value})} lowers the loss from "
        f"{best.loss + best.gain:.2f} to {best.loss:.2f} nats per token on {best.tokens:,} tokens; "
        f"{best.option}={model.config[best.option]} was only assumed",
        f"say which: that, or {now}; golfpack probe tries every option and writes down the best",
    )


def _begin(
    path: Path, overrides: Mapping[str, Any], family: Family | None, tokenizer: Path | None
) -> tuple[Model, dict[str, Any]]:
    """The model, and the options that had to be guessed to have one."""
    try:
        return load_checkpoint(path, overrides, family, tokenizer=tokenizer), {}
    except MissingOptions as error:
        if "word_starts" in error.begin:
            raise UsageError(
                "the model depends on which tokens start a word, which its tokenizer tells",
                "add --tokenizer FILE.model",
            ) from error
        guessed = dict(error.begin)
    model = load_checkpoint(path, {**guessed, **overrides}, family, tokenizer=tokenizer)
    return model, guessed


def _sequences(tokens: str, tokenizer: Path | None, model: Model, limit: int) -> np.ndarray:
    """(n, T + 1) windows, evenly spread over the text."""
    stream = read_stream(tokens, None if tokenizer is None else load_tokenizer(tokenizer))
    if len(stream) < 2:
        raise UsageError(f"{tokens} holds {len(stream)} tokens", "give text of a few thousand")
    if int(stream.max()) >= model.config["vocab_size"]:
        raise UsageError(
            f"{tokens} has token {int(stream.max())}, the model's vocabulary ends at "
            f"{model.config['vocab_size'] - 1}",
            "use tokens made with the model's own tokenizer",
        )
    length = min(LENGTH, _longest(model), len(stream) - 1, limit)
    count = max(1, min(limit, len(stream) - 1) // length)
    return windows(stream, length, count)


def _longest(model: Model) -> int:
    """The longest sequence to score: what the model takes, and what it says it was trained at."""
    longest = model.family.max_length(model.config) or LENGTH
    return min(longest, int(model.config.get("seq_len", LENGTH)))


def windows(stream: np.ndarray, length: int = LENGTH, count: int = 4) -> np.ndarray:
    """(count, length + 1) token ids, evenly spread over a stream; shorter ones of a shorter stream."""
    length = min(length, len(stream) - 1)
    starts = np.linspace(0, len(stream) - length - 1, count).astype(np.int64)
    return np.stack([stream[s : s + length + 1] for s in starts])


def _rounds(losses: Losses, tokens: tuple[int, ...]) -> list[int]:
    """Rounds of so many tokens, in sequences; the last is of all there are."""
    counts = sorted({max(1, n // losses.length) for n in tokens})
    return [*(c for c in counts if c < len(losses)), len(losses)]


def _few(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first, the middle and the last of many values."""
    if len(values) <= QUICK_VALUES:
        return values
    return tuple(values[round(i)] for i in np.linspace(0, len(values) - 1, QUICK_VALUES))


def _setting(name: str, config: Mapping[str, Any]) -> str:
    return f"--set model.{name}={config[name]}"


def _write(path: Path, config: Mapping[str, Any], *, force: bool) -> Path:
    text = json.dumps(config, indent=1) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text and not force:
        known = read_json(path, "fix or delete it")
        if any(config.get(k, v) != v for k, v in known.items()):
            raise UsageError(f"{path} is there and says something else", "--force replaces it")
    write_atomically(path, text.encode())
    return path
