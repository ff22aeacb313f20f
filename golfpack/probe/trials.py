"""Options that shapes cannot tell, told by text: the loss of a model under each of its siblings.

A sibling has the same tensors and computes something else (`Family.siblings`). A model that was trained
predicts text better under the options it was trained with: on the challenge's checkpoints, 512 tokens
tell relu squared from leaky relu squared by a fifth of a nat. Siblings are tried in a race: all of them
on few tokens, those that may yet be better on more.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from golfpack.errors import UsageError
from golfpack.models.model import Model

# On foreign text a model is too sure of itself, and whatever flattens its logits (a lower softcap)
# gains. A sibling has to be better at each one's best of these temperatures as well.
_TEMPERATURES = (0.6, 0.8, 1.0, 1.25, 1.6, 2.2, 3.0)
# Logits held at once.
_MOST_LOGITS = 1 << 24
# Where nothing is this much better than a guess, nats per token, the model tells nothing.
TRAINED = 0.5
# A sibling so many standard errors behind leaves the race.
_LOST = 3.0


@dataclass(frozen=True)
class Margin:
    """When a sibling is clearly better.

    Attributes:
        share: it gains at least this share of the loss.
        usual_share: or this share, where its value is the family's default, which most models have.
        errors: and so many standard errors of the gain, tokens paired.
    """

    share: float
    usual_share: float
    errors: float


@dataclass(frozen=True)
class Trial:
    """A sibling in one option.

    Attributes:
        option: the option.
        value: its value in the sibling.
        loss: nats per token.
        gain: what it saves, nats per token; the less of the plain figure and of that at the best
            temperatures.
        errors: the same in standard errors.
        tokens: on how many it was tried.
        better: clearly so.
        worse: clearly so.
        usual: whether the value is the family's default.
    """

    option: str
    value: Any
    loss: float
    gain: float
    errors: float
    tokens: int
    better: bool
    worse: bool
    usual: bool


class Losses:
    """Losses per token of a model under configs, on sequences that are scored as they are needed."""

    def __init__(
        self, model: Model, sequences: np.ndarray, free: Collection[str] = frozenset()
    ) -> None:
        """Prepare.

        Args:
            sequences: (n, T + 1) token ids.
            free: options with no value that is more usual than the others: the best one is taken.
        """
        self._model, self._sequences = model, torch.from_numpy(sequences.astype(np.int64))
        self.free = free
        self.usual = {f.name: f.default for f in fields(model.family.config_type)}
        self._known: dict[tuple[tuple[str, Any], ...], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, config: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
        """(losses, losses at the best temperature), each (n,), of the first `count` sequences.

        Raises:
            UsageError: no model of the family has this config.
        """
        key = tuple(sorted(config.items()))
        if key not in self._known or len(self._known[key][0]) < count * self.length:
            self._known[key] = self._score(config, count)
        plain, tempered = self._known[key]
        return plain[: count * self.length], tempered[: count * self.length]

    @property
    def length(self) -> int:
        """Targets of one sequence."""
        return self._sequences.shape[1] - 1

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self._sequences)

    def short(self, tokens: int) -> "Losses":
        """The same of the first `tokens` targets of the first sequence alone."""
        return Losses(self._model, self._sequences[:1, : tokens + 1].numpy(), self.free)

    def _score(self, config: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
        module = self._model.family.module(config, self._model.weights)
        by_temperature: list[list[np.ndarray]] = [[] for _ in _TEMPERATURES]
        with torch.no_grad():
            each = max(1, _MOST_LOGITS // (self.length * int(config["vocab_size"])))
            for rows in self._sequences[:count].split(each):
                logits, targets = module(rows[:, :-1]).float().flatten(0, 1), rows[:, 1:].flatten()
                for losses, temperature in zip(by_temperature, _TEMPERATURES, strict=True):
                    nll = F.cross_entropy(logits / temperature, targets, reduction="none")
                    losses.append(nll.double().numpy())
        all_losses = [np.concatenate(losses) for losses in by_temperature]
        plain = all_losses[_TEMPERATURES.index(1.0)]
        return plain, min(all_losses, key=lambda losses: float(losses.mean()))


def race(
    losses: Losses,
    config: Mapping[str, Any],
    siblings: Mapping[str, Sequence[Any]],
    rounds: Sequence[int],
    margin: Margin,
    on_trial: Callable[[int, int, str], None],
    *,
    only_better: bool = False,
) -> list[Trial]:
    """Every sibling in one option against `config`, the best first.

    Args:
        rounds: sequences of each round of the race, rising.
        only_better: siblings that will hardly come out as clearly better leave the race, too: those
            that are as good, and all of an untrained model. By how much they are not is then told
            from fewer tokens.
    """
    runners = [
        (option, value)
        for option, values in siblings.items()
        for value in values
        if value != config[option]
    ]
    ended = list[Trial]()
    for i, count in enumerate(rounds):
        trials: list[Trial] = []
        for done, (option, value) in enumerate(runners):
            on_trial(done, len(runners), f"{option}={value}, {count * losses.length:,} tokens")
            trial = _trial(losses, config, option, value, count, margin)
            if trial is not None:
                trials.append(trial)
        last = i == len(rounds) - 1
        on = [t for t in trials if not last and _goes_on(t, losses, config, margin, only_better)]
        ended += [t for t in trials if t not in on]
        runners = [(t.option, t.value) for t in on]
    return sorted(ended, key=lambda t: -t.gain)


def not_worse(
    losses: Losses,
    config: Mapping[str, Any],
    siblings: Mapping[str, Sequence[Any]],
    margin: Margin,
) -> dict[str, tuple[Any, ...]]:
    """The siblings that are not clearly worse on all of `losses`; none of an untrained model.

    That a sibling is as good says nothing on so few tokens: those stay.
    """
    trials = race(losses, config, siblings, [len(losses)], margin, lambda *_: None)
    guess = math.log(config["vocab_size"]) - TRAINED
    ours = _bound(losses(config, len(losses))[0], -_LOST)

    def trained(t: Trial) -> bool:
        theirs = losses({**config, t.option: t.value}, len(losses))
        return min(ours, _bound(theirs[0], -_LOST)) <= guess

    left = [t for t in trials if t.errors > -_LOST and trained(t)]
    return {o: tuple(t.value for t in left if t.option == o) for o in siblings}


def _goes_on(
    trial: Trial, losses: Losses, config: Mapping[str, Any], margin: Margin, only_better: bool
) -> bool:
    """Whether more tokens may yet show that a sibling is better."""
    if trial.errors <= -_LOST:
        return False
    if not only_better:
        return True
    count = trial.tokens // losses.length
    theirs = losses({**config, trial.option: trial.value}, count)
    ours = losses(config, count)
    least = min(_bound(theirs[0], -_LOST), _bound(ours[0], -_LOST))
    if least > math.log(config["vocab_size"]) - TRAINED:
        return False
    share = margin.usual_share if trial.usual else margin.share
    most = min(_bound(a - b, _LOST) for a, b in zip(ours, theirs, strict=True))
    # Of losses that are not finite nothing is known.
    return not most <= share * float(ours[0].mean())


def _bound(values: np.ndarray, errors: float) -> float:
    """The mean, and so many standard errors of it more."""
    return float(values.mean()) + errors * float(values.std()) / math.sqrt(len(values))


def _trial(
    losses: Losses, config: Mapping[str, Any], option: str, value: Any, count: int, margin: Margin
) -> Trial | None:
    """One sibling, or None where the options do not go together."""
    try:
        theirs = losses({**config, option: value}, count)
    except UsageError:
        return None
    ours = losses(config, count)
    gains = [_gain(a, b) for a, b in zip(ours, theirs, strict=True)]
    gain, errors = min(g for g, _ in gains), min(e for _, e in gains)
    most, best = max(g for g, _ in gains), max(e for _, e in gains)
    usual = value == losses.usual[option]
    loss, now = float(theirs[0].mean()), float(ours[0].mean())
    share = 0.0 if option in losses.free else margin.usual_share if usual else margin.share
    trained = min(loss, now) < math.log(config["vocab_size"]) - TRAINED
    return Trial(
        option, value, loss, gain, errors, len(ours[0]),
        better=trained and gain > now * share and errors > margin.errors,
        worse=trained and most < -now * margin.usual_share and best < -margin.errors,
        usual=usual,
    )  # fmt: skip


def _gain(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """(mean of what theirs saves, the same in standard errors); losses that are not finite never win."""
    saved = ours - theirs
    if not np.isfinite(saved).all():
        better = np.isfinite(theirs).all() and not np.isfinite(ours).all()
        return (math.inf, math.inf) if better else (-math.inf, -math.inf)
    error = float(saved.std()) / math.sqrt(len(saved))
    return float(saved.mean()), float(saved.mean()) / (error or 1e-30)


def _choice(
    better: Sequence[Trial], losses: Losses, config: Mapping[str, Any], margin: Margin
) -> Trial:
    """The best sibling, or a default, of whatever option, that is not clearly behind it.

    A slope near 0 is as good as no slope: of two ways to say the same, models have the default.
    """
    best = better[0]
    usual = next((t for t in better if t.usual and t.option not in losses.free), best)
    now = float(losses(config, len(losses))[0].mean())
    free = best.option in losses.free
    return best if free or best.gain - usual.gain > margin.share * now else usual


@dataclass(frozen=True)
class Change:
    """A step of the descent.

    Attributes:
        option: that was changed.
        before: its value.
        after: its new one.
        loss: with it, nats per token.
    """

    option: str
    before: Any
    after: Any
    loss: float


@dataclass(frozen=True)
class Step:
    """A config, its siblings in one option each, the best first, and the change that led to it."""

    config: dict[str, Any]
    trials: list[Trial]
    change: Change | None


def descend(
    model: Model,
    losses: Losses,
    rounds: Sequence[int],
    margin: Margin,
    on_trial: Callable[[int, int, str], None],
) -> Iterator[Step]:
    """Steps from the model's own config on, until no sibling is clearly better.

    Each step takes the best sibling: later ones are tried beside it, since options hide one another.
    """
    assert model.family.siblings is not None
    config, change, seen = dict(model.config), None, [model.config]
    while True:
        siblings = model.family.siblings(config)
        trials = race(losses, config, siblings, rounds, margin, on_trial)
        yield Step(config, trials, change)
        better = [t for t in trials if t.better and {**config, t.option: t.value} not in seen]
        if not better:
            return
        best = _choice(better, losses, config, margin)
        change = Change(best.option, config[best.option], best.value, best.loss)
        config = {**config, best.option: best.value}
        seen.append(config)
