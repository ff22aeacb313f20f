"""Whether a figure was obtained legally, measured on the code that made it.

The four conditions of openai/parameter-golf (README, and issue 1017, "A Field Guide to Valid
Submissions"): strict causality, a full normalised distribution, score before update, a single pass. The
first three run the mode's own code and the run's own scorer on a short stretch of the run's own
tokens, once as it is and then with something changed that a legal run cannot notice.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Mode, Probe, Stream
from golfpack.eval.scorer import Scorer
from golfpack.models.ranks import Group

# The probabilities of all tokens may differ from 1 by this much in sum: float32 rounding.
NORMALISATION_TOLERANCE = 1e-4
# Distributions whose every probability is asked for, at most, and losses in all.
MAX_DISTRIBUTIONS = 8
MAX_LOSSES = 1 << 24


@dataclass(frozen=True)
class Check:
    """One condition: whether it held, and what was measured."""

    name: str
    passed: bool
    measured: str

    def as_dict(self) -> dict[str, str | bool]:
        """For the report."""
        return asdict(self)


def check_legality(
    mode: Mode,
    scorer: Scorer,
    tokens: np.ndarray,
    vocab_size: int,
    group: Group,
    log: ScoreLog,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Check]:
    """The four checks of a run.

    Args:
        mode, scorer: what made the run.
        tokens: (n,) of the run, whose first ones are used.
        vocab_size: tokens of the alphabet.
        group: ranks that made the run; all of them call this.
        log: the run's complete log.
        progress: called before each check with (done, total, its name).
    """
    probe = mode.probe()
    stream = _probe_stream(probe, tokens)
    lab = _Lab(probe.mode, scorer, stream, vocab_size, group)
    checks: list[Check] = []
    for check in (lab.causality, lab.normalisation, lab.score_before_update):
        if progress is not None:
            progress(len(checks), 4, check.__name__)
        checks.append(check())
    return [*checks, single_pass(log)]


def single_pass(log: ScoreLog) -> Check:
    """Whether every target of a run has one score, and no other was offered."""
    missing = int((log.times == 0).sum())
    measured = f"{len(log.nll) - missing} of {len(log.nll)} targets scored, {log.refused} rescored"
    return Check("single_pass", missing == 0 and log.refused == 0, measured)


@dataclass(frozen=True, eq=False)
class _Lab:
    """Runs of a probe, with one view of its stream changed at a time."""

    mode: Mode
    scorer: Scorer
    stream: Stream
    vocab_size: int
    group: Group

    def causality(self) -> Check:
        """Other tokens are read after position t: the loss of targets up to t must keep its bits.

        Rates are 0 here, so that what training does is not mistaken for what the model sees.
        """
        frozen = self.mode.frozen()
        before = self._run(frozen, self.stream)
        targets = self.stream.targets
        # In pairs: nothing lies ahead of a window's last position, so one of two is not the last.
        positions = sorted({targets * k // 5 + i for k in (1, 2, 4) for i in (0, 1)})
        noticed = []
        for t in positions:
            read = self._other_tokens(self.stream.read, np.arange(targets + 1) > t)
            after = self._run(frozen, replace(self.stream, read=read))
            if not np.array_equal(before[: t + 1], after[: t + 1]):
                noticed.append(t)
        measured = f"tokens after {len(positions)} of {targets} positions replaced"
        if noticed:
            measured += f"; losses up to positions {noticed} changed"
        return Check("causality", not noticed, measured)

    def normalisation(self) -> Check:
        """Probabilities of all tokens, by the losses they would have: all positive, their sum 1."""
        kept: list[torch.Tensor] = []
        count = max(1, min(MAX_DISTRIBUTIONS, MAX_LOSSES // self.vocab_size**2))
        self.scorer.seen = lambda logits: kept.append(logits[0, -1].float().clone())
        try:
            self._run(self.mode, self.stream)
        finally:
            self.scorer.seen = None
        # Ranks with nothing to score have nothing to show; the others' findings count.
        chosen = kept[:: max(1, len(kept) // count)][:count]
        wrong = [why for logits in chosen if (why := self._not_normal(logits))]
        if self.group.sum_array(np.array([len(wrong)]))[0] == 0:
            measured = f"{len(chosen)} distributions over {self.vocab_size} tokens sum to 1"
            return Check("normalisation", True, measured)
        return Check("normalisation", False, wrong[0] if wrong else "seen on another rank")

    def _not_normal(self, logits: torch.Tensor) -> str | None:
        """What is wrong with the distribution behind logits (V,), as its losses tell."""
        if len(logits) != self.vocab_size:
            return f"logits for {len(logits)} of {self.vocab_size} tokens"
        # Each target has the whole distribution before it: some at a time, or a large vocabulary's fill
        # the memory.
        parts = torch.arange(self.vocab_size, device=logits.device).split(
            max(1, MAX_LOSSES // self.vocab_size)
        )
        losses = torch.cat(
            [self.scorer.losses(logits.expand(1, len(p), -1), p[None])[0].double() for p in parts]
        )
        impossible = int((~losses.isfinite()).sum())
        total = float((-losses).exp().sum())
        if impossible:
            return f"{impossible} tokens have no probability"
        if abs(total - 1) > NORMALISATION_TOLERANCE:
            return f"the probabilities of all tokens sum to {total:.6f}"
        return None

    def score_before_update(self) -> Check:
        """Training learns other tokens from round r on: scores of rounds up to r must stay.

        Bit for bit, where two equal runs agree bit for bit; some GPU kernels do not, and then within
        twice the difference of two equal runs.
        """
        before = self._run(self.mode, self.stream)
        noise = float(np.abs(before - self._run(self.mode, self.stream)).max())
        rounds = self.mode.rounds(self.stream)
        early, late = 0.0, 0.0
        for r in range(min(2, int(rounds.max()) + 1)):
            learned = self._other_tokens(self.stream.learned, self._learned_from(rounds, r))
            change = np.abs(before - self._run(self.mode, replace(self.stream, learned=learned)))
            early = max(early, float(change[rounds <= r].max()))
            late = max(late, float(change[rounds > r].max(initial=0.0)))
        measured = f"{int(rounds.max()) + 1} rounds; losses of a round changed by {early:.3g} nats "
        measured += f"when its own training was altered, those of later rounds by {late:.3g}"
        if noise:
            measured += f"; equal runs differ by {noise:.3g}"
        return Check("score_before_update", early <= 2 * noise, measured)

    def _learned_from(self, rounds: np.ndarray, r: int) -> np.ndarray:
        """(n,) which tokens are targets of round r or later; first tokens of documents never are.

        A document's first token is the last target of the one before it, whose round may be later.
        """
        changed = np.concatenate(([False], rounds >= r))
        changed[self.stream.documents[:-1]] = False
        return changed

    def _run(self, mode: Mode, stream: Stream) -> np.ndarray:
        log = ScoreLog(stream.targets)
        mode.run(self.scorer, stream, self.group, log)
        log.merge(self.group)
        return log.nll

    def _other_tokens(self, tokens: torch.Tensor, where: np.ndarray) -> torch.Tensor:
        """Tokens that differ from `tokens` at every place of `where`."""
        rng = np.random.default_rng(0)
        shift = rng.integers(1, self.vocab_size, len(tokens))
        changed = (tokens.numpy() + np.where(where, shift, 0)) % self.vocab_size
        return torch.from_numpy(changed)


def _probe_stream(probe: Probe, tokens: np.ndarray) -> Stream:
    """The run's first tokens, over again if there are too few, cut into the probe's documents."""
    bounds = np.concatenate(([0], np.cumsum(probe.documents))).astype(np.int64)
    return Stream.of(np.resize(tokens, int(bounds[-1]) + 1), bounds)
