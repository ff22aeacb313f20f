"""What a step minimises: the mean cross-entropy of its batch, and what the features of a run add.

A batch's loss does not depend on how it is cut into parts or on who computes them: every term is a sum
over targets divided by the whole batch's count. Validation losses know nothing of this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import Family
from golfpack.models.device import send
from golfpack.models.training import Readout
from golfpack.spec import ModelSpec
from golfpack.train.config import TrainConfig
from golfpack.train.features.heads import Heads, jepa_sum, make_heads, mtp_sums
from golfpack.train.features.meta_ttt import adapted_names, add_meta_gradient, is_meta_step
from golfpack.train.features.weights import weighted_sum, word_start_table, word_start_weight
from golfpack.train.loss import NO_TARGET, lowered, sequence_loss, targets_in


@dataclass(frozen=True, eq=False)
class Objective:
    """What a run minimises.

    Attributes:
        model: the module itself.
        starts: (V,) which tokens start a word, or None where that does not matter.
        heads: weights of auxiliary losses, or None.
        readout: what they read; None without them.
        adapted: names of the matrices that meta-TTT adapts.
    """

    config: TrainConfig
    model: nn.Module
    starts: np.ndarray | None = None
    heads: Heads | None = None
    readout: Readout | None = None
    adapted: tuple[str, ...] = ()

    @staticmethod
    def of(config: TrainConfig, family: Family, spec: ModelSpec, model: nn.Module) -> "Objective":
        """That of a run.

        Raises:
            UsageError: the family, or the model, lacks what a feature needs.
        """
        made = make_heads(config, family, spec, model)
        heads, readout = (None, None) if made is None else made
        adapted = adapted_names(spec, config.meta_freeze) if config.meta_weight else ()
        if config.meta_weight and not adapted:
            raise UsageError(
                f"train.meta_freeze leaves meta-TTT no block's matrices in this {family.name} model",
                "lower it, or leave out train.meta_weight",
            )
        starts = word_start_table(config, spec.config.get("vocab_size", 0))
        return Objective(config, model, starts, heads, readout, adapted)

    def parameters(self) -> list[nn.Parameter]:
        """All that has a gradient: the model's parameters and the heads'."""
        own = [] if self.heads is None else list(self.heads.parameters())
        return [*self.model.parameters(), *own]

    def batch(self, parts: Sequence[np.ndarray], step: int, used: float) -> "BatchObjective":
        """What the step after `step` steps minimises on a batch in parts (B, T + 1).

        Raises:
            UsageError: the batch has no target.
        """
        weight = word_start_weight(self.config, used)
        counts = [self._counts(part, weight) for part in parts]
        whole = np.sum(counts, axis=0)
        if not whole[0]:
            raise UsageError(
                f"the batch of step {step + 1} holds nothing but token {self.config.ignore_id}"
                if self.starts is None
                else f"no target of the batch of step {step + 1} has a weight",
                "leave out train.ignore_id, or give other tokens",
            )
        meta = is_meta_step(self.config, step, used)
        return BatchObjective(self, parts, counts, whole, weight, meta)

    def _counts(self, part: np.ndarray, weight: float) -> np.ndarray:
        """Of a part: weighted targets, targets, those of its second half, those of each MTP head."""
        ignored = self.config.ignore_id
        targets = weighted = targets_in(part, ignored)
        if self.starts is not None:
            kept = part[:, 1:] if ignored is None else part[:, 1:][part[:, 1:] != ignored]
            weighted = targets + (weight - 1.0) * int(self.starts[kept].sum())
        second = targets_in(part[:, (part.shape[1] - 1) // 2 :], ignored)
        heads = [targets_in(part[:, k:], ignored) for k in range(1, 1 + self.config.mtp_heads)]
        return np.array([weighted, targets, second, *heads], np.float64)


@dataclass(frozen=True, eq=False)
class BatchObjective:
    """What one step minimises, part by part.

    Attributes:
        parts: of the batch, (B, T + 1) each.
        counts: of each part, what its terms are sums over; see `Objective._counts`.
        whole: the same of the whole batch.
        weight: of a target that starts a word.
        meta: whether this step has the term of meta-TTT.
    """

    of: Objective
    parts: Sequence[np.ndarray]
    counts: Sequence[np.ndarray]
    whole: np.ndarray
    weight: float
    meta: bool

    def has_targets(self, index: int) -> bool:
        return bool(self.counts[index][1])

    def loss(self, forward: nn.Module, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(main term, all terms) of a part, each its share of the batch's, (), float32.

        Args:
            forward: tokens -> logits, or with heads also what they read.
        """
        config = self.of.config
        if not (config.weighs_targets or config.has_heads):
            mean = sequence_loss(
                forward, self.parts[index], "mean", precision=config.precision,
                smoothing=config.label_smoothing, ignore_id=config.ignore_id,
            )  # fmt: skip
            share = self.counts[index][0] / self.whole[0]
            main = mean if share == 1.0 else mean * share
            return main, main
        rows = self._rows(index)
        with lowered(config.precision, rows.device):
            out = forward(rows[:, :-1])
        logits, hidden = out if isinstance(out, tuple) else (out, None)
        main = self._main(logits.float(), rows[:, 1:])
        return main, main if hidden is None else main + self._auxiliary(hidden, rows)

    def add_meta_gradient(self, index: int) -> None:
        """Add a part's share of the gradient of meta-TTT's term, where this step has it."""
        config = self.of.config
        if not self.meta or not self.counts[index][2]:
            return
        rows = self._rows(index)
        scale = config.meta_weight / self.whole[2]

        def total(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return weighted_sum(logits.float(), targets, None, 0.0, 0.0, self._ignored)

        def inner(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return total(logits, targets) / (targets != self._ignored).sum().clamp(min=1)

        def outer(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return total(logits, targets) * scale

        add_meta_gradient(
            self.of.model, self.of.adapted, rows, inner, outer, config.meta_rate,
            lambda: lowered(config.precision, rows.device),
        )  # fmt: skip

    def _rows(self, index: int) -> torch.Tensor:
        device = next(self.of.model.parameters()).device
        return send(torch.from_numpy(self.parts[index]), device)

    @property
    def _ignored(self) -> int:
        ignored = self.of.config.ignore_id
        return NO_TARGET if ignored is None else ignored

    def _main(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        config, weights = self.of.config, None
        if self.of.starts is not None:
            starts = torch.from_numpy(self.of.starts).to(logits.device)
            weights = torch.where(starts, self.weight, 1.0)
        gamma, smoothing = config.focal_gamma, config.label_smoothing
        total = weighted_sum(logits, targets, weights, gamma, smoothing, self._ignored)
        return total / self.whole[0]

    def _auxiliary(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        of, config = self.of, self.of.config
        assert of.heads is not None
        assert of.readout is not None
        total = hidden.new_zeros((), dtype=torch.float32)
        with lowered(config.precision, rows.device):
            sums = mtp_sums(of.heads, of.readout, of.model, hidden, rows, self._ignored)
            if config.jepa_weight:
                errors = jepa_sum(of.heads, of.readout, of.model, hidden, rows, self._ignored)
                total = total + config.jepa_weight / self.whole[1] * errors
        for found, count in zip(sums, self.whole[3:], strict=True):
            total = total + config.mtp_weight / len(sums) / max(count, 1.0) * found
        return total
