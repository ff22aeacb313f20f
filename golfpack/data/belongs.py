"""Whether tokens are a tokenizer's own: what another one of the same size says of them is wrong."""

from collections import Counter

import numpy as np

from golfpack.data.tokenizer import Tokenizer
from golfpack.errors import UsageError

# A tokenizer decodes and encodes tokens that it made back to at least 99.5% of them, cuts through words
# included and unknown characters excluded; others of this or another size come to 38 to 94%
# (docs/LOG.md).
OWN = 0.97
PIECE, PIECES = 256, 32  # tokens looked at
# Fewer tokens say little; and where many are unknown, a tokenizer does not give back its own.
FEW, UNKNOWN = 1024, 0.005


def own_share(tokenizer: Tokenizer, tokens: np.ndarray) -> float | None:
    """Share of the first tokens (N,) that come back from text; None where that says nothing."""
    ids = tokens[tokens != tokenizer.bos_id()][: PIECE * PIECES]
    if len(ids) < FEW or np.mean(ids == tokenizer.unk_id()) > UNKNOWN:
        return None
    same = most = 0
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE].tolist()
        back = tokenizer.Encode(tokenizer.Decode(piece))
        same += (Counter(piece) & Counter(back)).total()
        most += max(len(piece), len(back))
    return same / most


def refuse_other_tokenizer(tokenizer: Tokenizer, tokens: np.ndarray, name: object) -> None:
    """Hold tokens of a shard (N,) to the tokenizer that is to count their bytes.

    Raises:
        UsageError: another tokenizer made them.
    """
    share = own_share(tokenizer, tokens)
    if share is not None and share < OWN:
        raise UsageError(
            f"{name} did not make these tokens: of what it decodes it encodes only {share:.0%} in the "
            "same way, and what it says of their bytes would be wrong",
            "give the tokenizer that the shard was made with",
        )
