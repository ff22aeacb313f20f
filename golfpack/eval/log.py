"""The score log: the loss of every target, written once and never again."""

from collections.abc import Callable

import numpy as np

from golfpack.errors import UsageError
from golfpack.eval.bytes import loss_and_bpb
from golfpack.models.ranks import Group

Progress = Callable[[int, int, str], None]


class ScoreLog:
    """Append-only losses of a stream's targets.

    The first score of a target stands: a second one is refused and counted, so that a run which
    rescores can neither improve its figure nor hide that it tried.

    Attributes:
        nll: (targets,) float64, nats; NaN where nothing has been scored yet.
        context: (targets,) int32, tokens the model saw before each target.
        times: (targets,) int64, how often a score was offered.
    """

    def __init__(
        self,
        targets: int,
        target_bytes: np.ndarray | None = None,
        progress: Progress | None = None,
        ranks: int = 1,
    ) -> None:
        """Make an empty log.

        Args:
            target_bytes: bytes of each target, for the running figure.
            progress: called after each write with targets done, targets in all, and the running figure.
            ranks: logs that share the targets; progress assumes that they advance alike.
        """
        self.nll = np.full(targets, np.nan)
        self.context = np.zeros(targets, np.int32)
        self.times = np.zeros(targets, np.int64)
        self._bytes = target_bytes
        self._progress = progress
        self._ranks = ranks
        self._sum, self._scored, self._scored_bytes = 0.0, 0, 0

    def write(self, first: int, nll: np.ndarray, context: np.ndarray) -> None:
        """Append the scores of the targets first, first + 1, ...

        Args:
            nll: (k,) float64 nats. context: (k,) integers.

        Raises:
            UsageError: a loss is not finite.
        """
        if not np.isfinite(nll).all():
            raise UsageError(
                f"the model's loss is not finite at target {first + int((~np.isfinite(nll)).argmax())}",
                "its weights overflow; is the config (softcap, activation) the right one, and the "
                "rate of test-time training not too high?",
            )
        span = slice(first, first + len(nll))
        fresh = self.times[span] == 0
        self.times[span] += 1
        self.nll[span][fresh] = nll[fresh]
        self.context[span][fresh] = context[fresh]
        self._sum += float(nll[fresh].sum())
        self._scored += int(fresh.sum())
        if self._bytes is not None:
            self._scored_bytes += int(self._bytes[span][fresh].sum())
        if self._progress is not None:
            total = len(self.nll)
            self._progress(min(total, self._scored * self._ranks), total, self._figure())

    def _figure(self) -> str:
        note = f"loss {self._sum / max(1, self._scored):.4f}"
        if not self._scored_bytes:
            return note
        return f"{note}, {self._sum / np.log(2) / self._scored_bytes:.4f} bpb"

    def merge(self, group: Group) -> None:
        """Join what the ranks of a group have written, each its own part."""
        times = group.sum_array(self.times)
        self.nll = group.sum_array(np.where(self.times > 0, self.nll, 0.0))
        self.nll[times == 0] = np.nan
        self.context = group.sum_array(self.context)
        self.times = times

    @property
    def complete(self) -> bool:
        """Whether every target has been scored."""
        return bool((self.times > 0).all())

    @property
    def refused(self) -> int:
        """Scores that came too late: their targets had one."""
        return int((self.times - 1).clip(0).sum())

    def by_document(
        self, documents: np.ndarray, target_bytes: np.ndarray | None
    ) -> list[dict[str, float]]:
        """Tokens, bytes, loss and bits per byte of each document (see `document_bounds`).

        Without `target_bytes` there are no bytes to tell.
        """
        rows: list[dict[str, float]] = []
        for start, stop in zip(documents[:-1].tolist(), documents[1:].tolist(), strict=True):
            nll = self.nll[start:stop]
            if target_bytes is None:
                rows.append({"start": start, "tokens": stop - start, "loss": float(nll.mean())})
                continue
            size = target_bytes[start:stop]
            row = {"start": start, "tokens": stop - start, "bytes": int(size.sum())}
            if row["bytes"]:
                loss, bpb = loss_and_bpb(nll, size)
                rows.append({**row, "loss": loss, "bpb": bpb})
            else:  # a document of control tokens alone has no bits per byte
                rows.append({**row, "loss": float(nll.mean())})
        return rows

    def by_position(self) -> list[dict[str, float]]:
        """Mean loss of the targets with 1, 2, 3, ... tokens before them in their window."""
        counts = np.bincount(self.context)
        sums = np.bincount(self.context, weights=self.nll)
        return [
            {"context": int(c), "tokens": int(counts[c]), "loss": float(sums[c] / counts[c])}
            for c in np.flatnonzero(counts)
        ]
