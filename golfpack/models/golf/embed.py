"""What the golf network knows of single tokens and of their immediate predecessors.

Formulas: openai/parameter-golf, the records' `train_gpt.py`; each is written where it is computed.
"""

import torch
from torch import nn

from golfpack.data.id_lists import word_start_ids
from golfpack.models.golf.config import GolfConfig

# Tokens before a new one that its embedding depends on: it takes in its predecessor, whose hashed
# trigram reaches two tokens further back.
LOOK_BACK = 3


def document_starts(cfg: GolfConfig, tokens: torch.Tensor) -> torch.Tensor:
    """Whether each token of (B, T) has no predecessor: the first, and with `bos_resets` each BOS."""
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[:, 0] = True
    return starts | (tokens == cfg.bos_id) if cfg.bos_resets else starts


def _previous(x: torch.Tensor) -> torch.Tensor:
    """The tensor shifted by one position along axis 1, with zeros (False) in the first."""
    return torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)


class TokenTable(nn.Module):
    """scale * proj(embed(ids)): rows of a narrow table, projected where the output is wider."""

    def __init__(self, rows: int, width: int, out: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, width)
        self.proj = nn.Linear(width, out, bias=False) if width != out else nn.Identity()
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, T) -> (B, T, out)."""
        return self._project(self.embed(ids))

    def _project(self, rows: torch.Tensor) -> torch.Tensor:
        x = self.proj(rows)
        return x * self.scale.to(x.dtype)


class BigramHash(TokenTable):
    """A table looked up by the hash of each token x_t and its predecessor, (rows V).

    xor: (36313 x_t xor 27191 x_{t-1}) mod (V - 1) in int32 arithmetic that wraps; row V - 1 for a
    token without predecessor. linear: (multiplier x_{t-1} + x_t) mod V, with 0 for no predecessor.
    trigram (xor only): the row of (36313 x_t xor 27191 x_{t-1} xor 51497 x_{t-2}) mod (V - 1) is added;
    row V - 1 for a token without two predecessors. split (xor only): mod h = (V - 1) // 2 instead, plus
    h where x_t starts no word.
    """

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__(cfg.bigram_size, cfg.bigram_dim, cfg.embed_width)
        self.cfg = cfg
        self.starts = WordStarts(cfg)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) -> (B, T, embedding width)."""
        if not self.cfg.bigram_trigram:
            return self._project(self.embed(self._pair(ids)))
        # One lookup for both: two would have two gradients of the table's size.
        both = torch.stack((self._pair(ids), self._triple(ids)))
        return self._project(self.embed(both).sum(0))

    def _pair(self, tokens: torch.Tensor) -> torch.Tensor:
        starts = document_starts(self.cfg, tokens)
        if self.cfg.bigram_hash == "linear":
            before = _previous(tokens).masked_fill(starts, 0)
            return (self.cfg.bigram_multiplier * before + tokens) % self.cfg.bigram_size
        t = tokens.to(torch.int32)
        return self._row(36313 * t ^ 27191 * _previous(t), tokens, starts)

    def _triple(self, tokens: torch.Tensor) -> torch.Tensor:
        starts = document_starts(self.cfg, tokens)
        t = tokens.to(torch.int32)
        one, two = _previous(t), _previous(_previous(t))
        alone = starts | _previous(starts)
        alone[:, :1] = True
        return self._row(36313 * t ^ 27191 * one ^ 51497 * two, tokens, alone)

    def _row(self, hashed: torch.Tensor, tokens: torch.Tensor, alone: torch.Tensor) -> torch.Tensor:
        last = self.cfg.bigram_size - 1
        if self.cfg.bigram_split:
            half = last // 2
            row = hashed % half + torch.where(self.starts(tokens), 0, half)
        else:
            row = hashed % last
        return row.masked_fill(alone, last).long()


class Engram(nn.Module):
    """sigmoid(ngram_gate) * proj of the rows that hashes of the last two or three tokens find.

    With n rows a table, t = x_t, p = x_{t-1} and q = x_{t-2} (0 where there is none), the tables look up
    (1009 p + t) mod n and ((2719 p + 314159) xor 3137 t) mod n; with trigrams also
    (36313 q xor 27191 p xor 4903 t) mod n and (7919 q xor 4391 p xor 6151 t) mod n. The tables are
    stacked in that order. Formula: openai/parameter-golf, `EngramLite` of pull requests 1122 and 1205.
    """

    def __init__(self, cfg: GolfConfig) -> None:
        super().__init__()
        self.rows, self.trigram = cfg.bigram_size // cfg.engram_tables, cfg.bigram_trigram
        self.embed = nn.Embedding(cfg.bigram_size, cfg.bigram_dim)
        self.proj = nn.Linear(cfg.engram_tables * cfg.bigram_dim, cfg.embed_width, bias=False)
        self.ngram_gate = nn.Parameter(torch.empty(cfg.embed_width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) -> (B, T, embedding width)."""
        x = self.proj(self.embed(self._found(ids)).flatten(-2))
        return x * torch.sigmoid(self.ngram_gate.to(x.dtype))

    def _found(self, t: torch.Tensor) -> torch.Tensor:
        """Rows of the stacked tables, (B, T, tables)."""
        p = _previous(t)
        hashed = [1009 * p + t, (2719 * p + 314159) ^ (3137 * t)]
        if self.trigram:
            q = _previous(p)
            hashed.append((36313 * q) ^ (27191 * p) ^ (4903 * t))
            hashed.append((7919 * q) ^ (4391 * p) ^ (6151 * t))
        return torch.stack([h % self.rows + i * self.rows for i, h in enumerate(hashed)], dim=-1)


class PairTable(nn.Module):
    """Row (2039 x_{t-1} + x_t) mod R of a table of zeros, x_{-1} = 0: what test-time training may add.

    Formula: openai/parameter-golf, `eval_val_sliding_ttt` of pull request 1529.
    """

    def __init__(self, rows: int, width: int, like: torch.Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(like.new_zeros(rows, width))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) -> (B, T, width)."""
        return self.table[(2039 * _previous(ids) + ids) % len(self.table)]


class WordStarts:
    """Which tokens start a word: a table that goes wherever the ids are, and no part of the weights."""

    def __init__(self, cfg: GolfConfig) -> None:
        self._table = torch.zeros(cfg.vocab_size, dtype=torch.bool, device="cpu")
        if cfg.word_starts:
            self._table[list(word_start_ids(cfg.word_starts))] = True

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids, of any shape -> truth values of that shape."""
        if self._table.device != tokens.device:
            self._table = self._table.to(tokens.device)
        return self._table[tokens]


class ChannelSmear(nn.Module):
    """(1 - g) x_t + g x_{t-1} with g = sigmoid(gate), one gate per channel; x_{-1} = 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(dim))

    def forward(self, x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, T, dim) and starts (B, T) -> (B, T, dim)."""
        g = torch.sigmoid(self.gate.to(x.dtype))
        return (1 - g) * x + g * _previous(x).masked_fill(starts[..., None], 0.0)


def window_smear(
    x: torch.Tensor, gate: nn.Linear, strength: torch.Tensor, starts: torch.Tensor
) -> torch.Tensor:
    """x_t + strength * sigmoid(gate(x_t[:window])) * x_{t-1}, without the last term at starts."""
    g = strength.to(x.dtype) * torch.sigmoid(gate(x[..., : gate.in_features]))
    return x + g * _previous(x).masked_fill(starts[..., None], 0.0)
