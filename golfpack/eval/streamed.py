"""Scoring token by token through a KV cache: what a model loses that generates from that cache."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import PROBE_WINDOW, Probe, Stream
from golfpack.eval.scorer import Scorer
from golfpack.eval.windows import Windows, lay_windows
from golfpack.kv.cache import StoredCache
from golfpack.kv.layout import CacheLayout
from golfpack.kv.policy import residual_of, told
from golfpack.models.device import send
from golfpack.models.ranks import Group

# Windows read side by side: one token of one window at a time would leave most of a processor idle.
ABREAST = 16


@dataclass(frozen=True)
class Streamed:
    """Windows one after the other, as plain ones, but each read token by token through a cache.

    Attributes:
        window: tokens per window, each with a cache of its own.
        layout: the cache's tensors and their formats.
    """

    window: int
    layout: CacheLayout

    def run(self, scorer: Scorer, stream: Stream, group: Group, log: ScoreLog) -> None:
        """Score this rank's windows: a contiguous part."""
        windows = lay_windows(stream.targets, self.window, self.window)
        mine = windows[group.share(len(windows))]
        for batch in mine.batches(max(scorer.batch_tokens, ABREAST * self.window)):
            self._score(scorer, stream, batch, log)

    def _score(self, scorer: Scorer, stream: Stream, batch: Windows, log: ScoreLog) -> None:
        length = int(batch.stop[0] - batch.start[0])
        at = torch.from_numpy(batch.start)[:, None] + torch.arange(length)
        cache = StoredCache(self.layout, length)
        with torch.no_grad():
            nll = scorer.score_stream(
                send(stream.read[at], scorer.device),
                send(stream.labels[at + 1], scorer.device),
                cache,
            )
        context = np.tile(np.arange(length) + 1, len(batch))
        log.write(int(batch.first[0]), nll.flatten().double().cpu().numpy(), context)

    def rounds(self, stream: Stream) -> np.ndarray:
        """One round: nothing is trained."""
        return np.zeros(stream.targets, np.int64)

    def idle(self, documents: np.ndarray) -> list[str]:
        """Nothing: no training was asked for."""
        del documents
        return []

    def frozen(self) -> "Streamed":
        """Itself."""
        return self

    def probe(self) -> Probe:
        """Short windows, whole ones and a partial one."""
        small = min(self.window, PROBE_WINDOW)
        return Probe(dataclasses.replace(self, window=small), (2 * small + small // 2 + 1,))

    def options(self) -> dict[str, Any]:
        """Window, formats, and the bytes of one window's cache."""
        return {
            "window": self.window, "stride": self.window, "kv_cache": told(self.layout),
            "kv_residual": residual_of(self.layout), "kv_bytes": self.layout.bytes(self.window),
        }  # fmt: skip
