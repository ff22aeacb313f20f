"""From tokens to losses: the one place where a model's logits become the nll of targets.

Float32 on CPU, bfloat16 autocast on CUDA (as the challenge), losses in float32 of float32 logits, and
sums of them in float64.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.errors import UsageError
from golfpack.eval.log import ScoreLog
from golfpack.eval.windows import Windows
from golfpack.models.base import KVCache
from golfpack.models.device import exact_products, send
from golfpack.spec import ModelSpec

# Tokens per forward pass and CPU thread: more than fits the caches is slower.
CPU_BATCH_TOKENS = 1024
# Batches whose losses are fetched from a GPU together: fetching waits for all of them.
FETCH_EVERY = 16
# Share of a GPU's free memory that one batch may take.
CUDA_MEMORY_SHARE = 0.25


class Scorer:
    """A model that scores targets.

    Attributes:
        model: tokens (B, T) -> logits (B, T, V).
        spec: of the model; says which modules are its head and its linear layers.
        device: "cpu", "cuda" or "cuda:N".
        batch_tokens: tokens per forward pass, about; changes nothing but time and memory.
        fetch_every: batches whose losses are fetched from the device together.
        seen: called with the logits (B, keep, V) behind every loss: how legality checks look on.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        device: str = "cpu",
        batch_tokens: int | None = None,
        compiled: str | None = None,
    ) -> None:
        """Move the model to `device` and get it ready; `compiled`: a mode of torch.compile, or None."""
        self.model = model.to(device).eval()
        self.spec = spec
        self.device = device
        self.batch_tokens = batch_tokens or _batch_tokens(spec, device)
        self.fetch_every = FETCH_EVERY if device.startswith("cuda") else 1
        self.seen: Callable[[torch.Tensor], None] | None = None
        if compiled:
            torch.compiler.set_stance("default")  # a user's file may have set it otherwise
        self._forward = torch.compile(self.model, mode=compiled) if compiled else self.model
        self._heads = [] if compiled else head_modules(spec)
        if self._heads and not self._only_last_is_exact():
            self._heads = []

    def trainable(self, frozen_blocks: int = 0) -> "Scorer":
        """A scorer on a copy of the weights, which may then be trained in memory.

        Args:
            frozen_blocks: the first blocks, whose tensors stay as they are.
        """
        other = copy.copy(self)
        other._forward = other.model = copy.deepcopy(self.model)
        blocks = {t.name: t.block for t in self.spec.tensors}
        frozen = {n for n, block in blocks.items() if block is not None and block < frozen_blocks}
        for name, p in other.model.named_parameters():
            p.requires_grad_(name not in frozen)
        return other

    def logits(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        """Logits (B, keep, V) float32 of the last `keep` positions of tokens (B, T)."""
        with self._precision(), self._only_last(keep):
            return self._forward(tokens)[:, -keep:].float()

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihoods (B, K) in nats of targets (B, K) under logits (B, K, V)."""
        flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return flat.view(targets.shape)

    def score(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Losses (B, K) of targets (B, K) that follow the last K positions of tokens (B, T)."""
        logits = self.logits(tokens, targets.shape[1])
        if self.seen is not None:
            self.seen(logits.detach())
        return self.losses(logits, targets)

    def score_stream(
        self, tokens: torch.Tensor, targets: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Losses (B, T) of targets (B, T) that follow tokens (B, T), read one by one through a cache."""
        found = []
        for t in range(tokens.shape[1]):
            with self._precision():
                logits = self.model(tokens[:, t : t + 1], cache=cache)[:, -1:].float()
            if self.seen is not None:
                self.seen(logits.detach())
            found.append(self.losses(logits, targets[:, t : t + 1]))
        return torch.cat(found, dim=1)

    def warm_up(self, window: int) -> None:
        """Let torch.compile do its work on random tokens, none of them the stream's.

        Raises:
            UsageError: the compiled model gives other losses than the model itself.
        """
        rows = max(1, self.batch_tokens // window)
        tokens = self._random_tokens(rows, window + 1)
        with torch.no_grad():
            found = self.score(tokens[:, :-1], tokens[:, 1:])[0]
            with self._precision():
                logits = self.model(tokens[:1, :-1]).float()
            wanted = self.losses(logits, tokens[:1, 1:])[0]
        off = float((found - wanted).abs().mean())
        # bfloat16 has 8 bits: fused or not, logits differ in the last of them.
        if not off <= (2e-2 if self.device.startswith("cuda") else 1e-4):
            raise UsageError(
                f"the compiled model's losses are off by {off:.2g} nats per token on average",
                "leave --compile out",
            )

    def _random_tokens(self, rows: int, length: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        vocab_size = self.spec.config["vocab_size"]
        tokens = torch.randint(vocab_size, (rows, length), generator=generator)
        return tokens.to(self.device)

    def _precision(self) -> torch.autocast | nullcontext[None]:
        if self.device.startswith("cuda"):
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    @contextmanager
    def _only_last(self, keep: int) -> Iterator[None]:
        """Show the head only the last positions: logits of those that score nothing are not needed."""
        with ExitStack() as stack:
            for head in self._heads:
                handle = self.model.get_submodule(head).register_forward_pre_hook(
                    lambda _module, args: (args[0][:, -keep:], *args[1:])
                )
                stack.callback(handle.remove)
            yield

    def _only_last_is_exact(self) -> bool:
        """Whether nothing behind the head mixes positions, tried on random tokens."""
        tokens = self._random_tokens(1, 6)
        # In float32 everywhere: bfloat16 products of other shapes differ by more than any tolerance.
        with torch.no_grad(), exact_products():
            wanted = self._forward(tokens)[:, -2:]
            with self._only_last(2):
                found = self._forward(tokens)
        return found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-3)


def head_modules(spec: ModelSpec) -> list[str]:
    """Modules that turn hidden states into logits."""
    return [
        h.module
        for t in spec.tensors
        for h in t.hooks
        if h.kind == "linear" and t.role in ("embed", "head")
    ]


def _batch_tokens(spec: ModelSpec, device: str) -> int:
    """Tokens whose activations fit: on CUDA those of all blocks in half, logits thrice in float."""
    if not device.startswith("cuda"):
        return CPU_BATCH_TOKENS * torch.get_num_threads()
    free, _ = torch.cuda.mem_get_info(device)
    matrices = [t for t in spec.tensors if t.role != "vector" and len(t.shape) == 2]
    width = sum(sum(t.shape) for t in matrices)
    return max(1024, int(CUDA_MEMORY_SHARE * free) // (12 * width))


def score_windows(
    scorer: Scorer, read: torch.Tensor, labels: torch.Tensor, windows: Windows, log: ScoreLog
) -> None:
    """Score windows batch by batch, in order, without gradients, and log them.

    Args:
        read: (n,) int64 tokens as the model reads them.
        labels: (n,) int64 tokens as they are scored; the same stream, but in legality checks.
    """
    scores = _Scores(log, scorer.fetch_every)
    for batch in windows.batches(scorer.batch_tokens):
        length = int(batch.stop[0] - batch.start[0])
        keep = int(batch.stop[0] - batch.first[0])
        at = torch.from_numpy(batch.start)[:, None] + torch.arange(length)
        with torch.no_grad():
            nll = scorer.score(
                send(read[at], scorer.device),
                send(labels[at[:, length - keep :] + 1], scorer.device),
            )
        context = np.arange(length - keep, length) + 1
        scores.add(int(batch.first[0]), nll, np.tile(context, len(batch)))
    scores.write()


class _Scores:
    """Losses on their way to the log: fetched from the device a few batches at a time."""

    def __init__(self, log: ScoreLog, at_once: int) -> None:
        self.log, self.at_once = log, at_once
        self.waiting: list[tuple[int, torch.Tensor, np.ndarray]] = []

    def add(self, first: int, nll: torch.Tensor, context: np.ndarray) -> None:
        self.waiting.append((first, nll.flatten(), context))
        if len(self.waiting) >= self.at_once:
            self.write()

    def write(self) -> None:
        """Write what waits, in order; this waits for the device."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        found = torch.cat([nll for _, nll, _ in waiting]).double().cpu().numpy()
        parts = np.split(found, np.cumsum([len(context) for *_, context in waiting])[:-1])
        for (first, _, context), nll in zip(waiting, parts, strict=True):
            self.log.write(first, nll, context)


def module_shapes(spec: ModelSpec, roles: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Linear modules of tensors with these roles -> (in, out) features.

    "head" takes in the linear use of a tied embedding.
    """
    found = {}
    for t in spec.tensors:
        role = "head" if t.role == "embed" else t.role
        for h in t.hooks:
            if h.kind == "linear" and role in roles:
                found[h.module] = (t.shape[1], t.shape[0])
    return found
