"""Score-first test-time training of low-rank adapters, document by document.

Facts: openai/parameter-golf, LoRA TTT of the 2026-03-17 and 2026-04-10 records. Each document starts
with fresh adapters; its chunks are scored, then trained on, one after the other; its last chunk is never
trained on. Documents of similar length form a batch in which every one has adapters of its own, and
nothing passes from one document to another.
"""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from golfpack.base.convert import require
from golfpack.errors import UsageError
from golfpack.eval.adapters import Adapters, Sites, find_slots
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Probe, Stream, smaller_chunk
from golfpack.eval.scorer import Scorer, module_shapes
from golfpack.models.device import send
from golfpack.models.ranks import Group
from golfpack.spec import Role

LORA_ROLES: tuple[Role, ...] = (
    "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out", "head",
)  # fmt: skip
# Adapters, their gradients and AdamW's two moments, at most, for one batch.
ADAPTER_BYTES = 1 << 31


@dataclass(frozen=True)
class LoraOptions:
    """Options of LoRA test-time training; defaults of the records since 2026-04-10.

    Attributes:
        rank, alpha: adapters add (alpha / rank) B A x.
        lr, beta1, beta2, eps, weight_decay: of AdamW.
        chunk: targets that are scored, then trained on with one step.
        window: tokens the model reads, at most, up to the end of the chunk.
        batch_docs: documents at a time, at most; fewer where memory is short.
        targets: roles whose linear layers get adapters; "head" is the tied embedding's use, too.
        seed: of the adapters' first values.
    """

    rank: int = 96
    alpha: float = 144.0
    lr: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-10
    weight_decay: float = 0.5
    chunk: int = 48
    window: int = 2048
    batch_docs: int = 64
    targets: tuple[str, ...] = field(default=LORA_ROLES)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "chunk", "window", "batch_docs"):
            value = getattr(self, name)
            require(value >= 1, f"ttt.{name} cannot be {value}", "it is at least 1")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            require(value >= 0, f"ttt.{name} cannot be {value}", "it is 0 or more")
        # Fresh adapters have gradients of 0, and Adam divides by their root.
        require(self.eps > 0, f"ttt.eps cannot be {self.eps}", "it is more than 0")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"ttt.{name} cannot be {value}", "it is in [0, 1)")
        require(
            self.window >= self.chunk,
            f"ttt.window={self.window} is shorter than a chunk of {self.chunk}",
            "the window holds the chunk and what precedes it",
        )
        unknown = [r for r in self.targets if r not in LORA_ROLES]
        require(
            not unknown and len(self.targets) > 0,
            f"ttt.targets cannot be {list(self.targets)}",
            f"choose from {', '.join(LORA_ROLES)}",
        )


Options = TypeVar("Options", bound=LoraOptions)


@dataclass(frozen=True)
class LoraTtt:
    """Every document with adapters of its own, trained on its scored chunks."""

    ttt: LoraOptions = LoraOptions()

    def run(self, scorer: Scorer, stream: Stream, group: Group, log: ScoreLog) -> None:
        """Score this rank's batches of documents."""
        score_documents(scorer, self.ttt, stream, range(len(stream.documents) - 1), group, log)

    def rounds(self, stream: Stream) -> np.ndarray:
        """The chunk of its document that a target is in."""
        return chunk_in_document(stream, self.ttt.chunk)

    def idle(self, documents: np.ndarray) -> list[str]:
        """That no document goes on behind its first chunk."""
        return idle_adapters(self.ttt, documents)

    def frozen(self) -> "LoraTtt":
        """The same with rate 0."""
        return replace(self, ttt=replace(self.ttt, lr=0.0))

    def probe(self) -> Probe:
        """Three documents of up to four chunks."""
        small = small_lora(self.ttt)
        return Probe(LoraTtt(small), (4 * small.chunk, 3 * small.chunk - 3, 2 * small.chunk))

    def options(self) -> dict[str, Any]:
        """The options of training."""
        return dataclasses.asdict(self)


def small_lora(options: Options) -> Options:
    """Options with short chunks and windows, for a probe."""
    chunk = min(options.chunk, 8)
    return replace(options, chunk=chunk, window=min(options.window, 3 * chunk), batch_docs=2)


def idle_adapters(options: LoraOptions, documents: np.ndarray) -> list[str]:
    """A warning where no document is longer than a chunk, so that no adapter is ever trained."""
    longest = int(np.diff(documents).max())
    if longest > options.chunk:
        return []
    smaller = smaller_chunk(longest, 1)
    way_out = "" if smaller is None else f"; --set ttt.chunk={smaller} trains"
    return [
        f"no adapter is trained: the longest document has {longest:,} targets, one chunk has "
        f"{options.chunk:,}, and a document's last chunk is never trained on{way_out}"
    ]


def chunk_in_document(stream: Stream, chunk: int) -> np.ndarray:
    """(targets,) number of the chunk each target is in, counted from its document's start."""
    starts = stream.documents[:-1]
    lengths = np.diff(stream.documents)
    return (np.arange(stream.targets) - np.repeat(starts, lengths)) // chunk


def score_documents(
    scorer: Scorer,
    options: LoraOptions,
    stream: Stream,
    documents: range,
    group: Group,
    log: ScoreLog,
) -> None:
    """Score some documents of a stream, this rank's batches of them, each with fresh adapters.

    Raises:
        UsageError: the model has no linear layer of the roles asked for.
    """
    shapes = module_shapes(scorer.spec, options.targets)
    if not shapes:
        raise UsageError(
            f"the model has no linear layer of the roles {', '.join(options.targets)}",
            "name other roles in ttt.targets",
        )
    slots = find_slots(scorer.model, shapes, scorer.device)
    sites = Sites(slots, options.rank, options.alpha / options.rank)
    most = min(options.batch_docs, ADAPTER_BYTES // (16 * sites.parameters_per_document))
    lengths = np.diff(stream.documents)
    batches = by_length(documents, lengths, max(1, most), options.window, 4 * scorer.batch_tokens)
    # Dealt out one by one, longest first, which balances the ranks.
    for batch in batches[group.rank :: group.size]:
        _Batch(scorer, options, sites, stream, np.array(batch)).run(log)


def by_length(
    documents: range, lengths: np.ndarray, most_docs: int, window: int, most_tokens: int
) -> list[list[int]]:
    """Documents in batches of like length, longest first.

    A batch has at most `most_docs` documents, which read at most `most_tokens` together (a document
    that reads more is alone).
    """
    batches: list[list[int]] = []
    room = 0
    for d in sorted(documents, key=lambda d: -int(lengths[d])):
        if not batches or len(batches[-1]) >= room:
            room = min(most_docs, max(1, most_tokens // min(window, int(lengths[d]))))
            batches.append([])
        batches[-1].append(d)
    return batches


class _Batch:
    """A batch of documents, longest first, on its way through its chunks."""

    def __init__(
        self, scorer: Scorer, options: LoraOptions, sites: Sites, stream: Stream, docs: np.ndarray
    ) -> None:
        self.scorer, self.options, self.stream = scorer, options, stream
        self.start = stream.documents[docs]
        self.length = stream.documents[docs + 1] - self.start
        self.adapters = Adapters(sites, len(docs), scorer.device, options.seed)
        self.optimiser = torch.optim.AdamW(
            self.adapters.parameters(), lr=options.lr, betas=(options.beta1, options.beta2),
            eps=options.eps, weight_decay=options.weight_decay,
        )  # fmt: skip

    def run(self, log: ScoreLog) -> None:
        chunk = self.options.chunk
        # Fetching losses waits for the device, so on CUDA those of some chunks are fetched together.
        waiting: list[tuple[int, int, torch.Tensor]] = []
        for begin in range(0, int(self.length[0]), chunk):
            end = min(begin + chunk, int(self.length[0]))
            waiting.append((begin, end, self._score(begin, end, int((self.length > begin).sum()))))
            if len(waiting) >= self.scorer.fetch_every:
                self._write(waiting, log)
            # A document's last chunk is never trained on: only those that go on are.
            if going_on := int((self.length > end).sum()):
                self._train(begin, end, going_on)
        self._write(waiting, log)

    def _score(self, begin: int, end: int, docs: int) -> torch.Tensor:
        """Losses of the targets [begin, end) of the first `docs` documents."""
        with torch.no_grad():
            return self._losses(self.stream.read, self.stream.labels, begin, end, docs)

    def _write(self, waiting: list[tuple[int, int, torch.Tensor]], log: ScoreLog) -> None:
        """Write chunks (begin, end, losses) where their documents have such targets, and drop them."""
        for begin, end, nll in waiting:
            context = np.arange(begin, end) - self._reads_from(begin) + 1
            for row, start, length in zip(
                nll.double().cpu().numpy(), self.start, self.length, strict=False
            ):
                scored = min(end, int(length)) - begin
                log.write(int(start) + begin, row[:scored], context[:scored])
        waiting.clear()

    def _reads_from(self, begin: int) -> int:
        """First position read for a chunk: as if it were whole, whatever batch a document is in."""
        return max(0, begin + self.options.chunk - self.options.window)

    def _train(self, begin: int, end: int, docs: int) -> None:
        """One step of each document on the mean loss of its targets [begin, end)."""
        losses = self._losses(self.stream.learned, self.stream.learned, begin, end, docs)
        self.optimiser.zero_grad(set_to_none=False)
        losses.mean(1).sum().backward()
        self.optimiser.step()

    def _losses(
        self, read: torch.Tensor, labels: torch.Tensor, begin: int, end: int, docs: int
    ) -> torch.Tensor:
        """Losses (docs, end - begin); those behind a document's end are of padding."""
        first = self._reads_from(begin)
        inside = torch.arange(first, end)
        last = torch.from_numpy(self.length[:docs] - 1)[:, None]
        at = torch.from_numpy(self.start[:docs])[:, None] + torch.minimum(inside, last)
        with self.adapters.on(self.scorer.model, docs):
            return self.scorer.score(
                send(read[at], self.scorer.device),
                send(labels[at[:, begin - first :] + 1], self.scorer.device),
            )
