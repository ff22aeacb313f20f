"""Losses that count more at some targets: where a word starts, and where the model is unsure.

Sources: seed 004, exp29b (word starts 1.5 times as much: better, taken out again in exp53b), exp78
(that weight rising from 0.1 to 1), exp35b (focal, gamma 2: worse). Focal loss: Lin et al. 2017.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from golfpack.data.id_lists import word_start_ids, word_start_text
from golfpack.data.pieces import PieceList, word_starts
from golfpack.errors import UsageError
from golfpack.train.config import TrainConfig


def word_start_weight(config: TrainConfig, used: float) -> float:
    """Weight of a word's first token with `used` of the budget spent; all others weigh 1."""
    first, last = config.word_start_from, config.word_start_weight
    return last if first is None else first + (last - first) * used


def with_word_starts(config: TrainConfig, tokenizer: PieceList) -> TrainConfig:
    """The settings, with the tokens that start a word where they matter and nobody told them."""
    if not config.weighs_word_starts or config.word_starts:
        return config
    return dataclasses.replace(config, word_starts=word_start_text(word_starts(tokenizer)))


def word_start_table(config: TrainConfig, vocab_size: int) -> np.ndarray | None:
    """(V,) truth values, which tokens start a word; None where no weight depends on it.

    Raises:
        UsageError: nobody told which they are, none are, or some are beyond the vocabulary.
    """
    if not config.weighs_word_starts:
        return None
    ids = word_start_ids(config.word_starts) if config.word_starts else ()
    if not ids:
        raise UsageError(
            "train.word_start_weight depends on which tokens start a word, and "
            + ("none do" if config.word_starts else "nobody told"),
            "give --tokenizer of a vocabulary with leading spaces, or set train.word_starts to their "
            "ids, such as 3,7-9",
        )
    if max(ids) >= vocab_size:
        raise UsageError(
            f"train.word_starts names token {max(ids)}; the model's vocabulary has {vocab_size}",
            "is it of this model's tokenizer?",
        )
    table = np.zeros(vocab_size, bool)
    table[list(ids)] = True
    return table


def weighted_sum(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    gamma: float,
    smoothing: float,
    ignored: int,
) -> torch.Tensor:
    """Sum over targets of w (1 - p)^gamma times the cross-entropy -log p, in float32.

    Args:
        logits: (..., V) float32.
        targets: (...) int64; those that are `ignored` count nothing.
        weights: (V,) w of each token as a target; None: 1.
        smoothing: see `TrainConfig.label_smoothing`; not together with gamma.
    """
    flat = targets.flatten()
    losses = F.cross_entropy(
        logits.flatten(0, -2), flat, reduction="none", label_smoothing=smoothing,
        ignore_index=ignored,
    )  # fmt: skip
    if gamma:
        losses = losses * (-torch.expm1(-losses)).clamp(min=0.0) ** gamma
    if weights is not None:
        losses = losses * weights[flat.clamp(min=0)]
    return losses.sum()
