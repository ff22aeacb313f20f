"""Tokens one by one from a model, and their text as it becomes certain."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from golfpack.data.tokenizer import Tokenizer
from golfpack.generate.sample import Sampler
from golfpack.models.base import KVCache

# What decoding puts for bytes that are no whole character yet.
_INCOMPLETE = "�"
# Tokens before the first new one that its text may depend on: a leading space, a character's bytes.
_CONTEXT = 6


@torch.no_grad()
def stream_tokens(
    module: nn.Module,
    prompt: Sequence[int],
    count: int,
    sampler: Sampler,
    cache: KVCache | None,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield `count` tokens that follow a prompt, each as soon as it is drawn.

    Args:
        module: of a family, in eval mode.
        prompt: token ids, at least one.
        count: how many.
        sampler: draws them.
        cache: empty, for all positions; None computes every position again for each token.
        vocab_size: only the first so many tokens are drawn from; None for all.

    Raises:
        UsageError: the model's logits are not finite.
    """
    device = next(module.parameters()).device
    tokens = torch.tensor([list(prompt)], device=device)
    logits = module(tokens, cache=cache)[0, -1]
    for left in range(count - 1, -1, -1):
        token = sampler(logits[:vocab_size])
        yield token
        if not left:
            return
        new = torch.tensor([[token]], device=device)
        tokens = new if cache is not None else torch.cat((tokens, new), dim=1)
        logits = module(tokens, cache=cache)[0, -1]


class TextStream:
    """Turns tokens into text piece by piece, up to a text that ends it.

    A piece is given out once no later token can change it: a character's bytes may come in several
    tokens, and what may be the beginning of an ending is held back until it is none.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], endings: Sequence[str]) -> None:
        """`prompt`: tokens before the first, its context; `endings`: texts that are not given out."""
        self.tokenizer, self.endings = tokenizer, tuple(endings)
        self.ended = False
        self._ids = list(prompt[-_CONTEXT:])
        self._from, self._read = 0, len(self._ids)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that has become certain with this token; none behind an ending."""
        if self.ended:
            return ""
        self._ids.append(token)
        before = self._decoded(self._ids[self._from : self._read])
        text = self._decoded(self._ids[self._from :])
        if len(text) <= len(before) or text.endswith(_INCOMPLETE):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return self._certain(text[len(before) :])

    def flush(self) -> str:
        """What is left, bytes that never became a character included."""
        if self.ended:
            return ""
        before = self._decoded(self._ids[self._from : self._read])
        rest = self._decoded(self._ids[self._from :])[len(before) :]
        self._held, rest = "", self._held + rest
        return rest

    def _certain(self, new: str) -> str:
        self._held += new
        found = [at for end in self.endings if (at := self._held.find(end)) >= 0]
        if found:
            self.ended = True
            out, self._held = self._held[: min(found)], ""
            return out
        keep = max((_overlap(self._held, end) for end in self.endings), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.Decode(ids) if ids else ""


def _overlap(text: str, ending: str) -> int:
    """How much of a text's end is the beginning of `ending`."""
    most = min(len(text), len(ending) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(ending[:n])), 0)
