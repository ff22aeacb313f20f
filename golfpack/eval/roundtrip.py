"""What a tokenizer loses: bits per byte of text that cannot be had back are not comparable."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from golfpack.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class RoundTrip:
    """Documents that came through a round trip, and those that did not.

    Attributes:
        documents: documents tried.
        lossy: documents that came back changed.
    """

    documents: int
    lossy: int


def token_round_trip(sp: Tokenizer, tokens: np.ndarray, documents: np.ndarray) -> RoundTrip:
    """encode(decode(x)) == x for the tokens x of each whole document.

    It fails where text became unknown pieces. What the tokenizer normalised away before can only be
    seen on the text itself: see `text_round_trip`. The last document may be cut, and is not tried;
    nor is what precedes the first BOS.

    Args:
        documents: from `document_bounds`.
    """
    lossy = tried = 0
    for start, stop in zip(documents[:-2].tolist(), documents[1:-1].tolist(), strict=True):
        if tokens[start] != sp.bos_id():
            continue
        ids = tokens[start + 1 : stop].tolist()
        tried += 1
        lossy += sp.Encode(sp.Decode(ids)) != ids
    return RoundTrip(tried, lossy)


def text_round_trip(sp: Tokenizer, documents: Iterable[str]) -> RoundTrip:
    """decode(encode(x)) == x for the text x of each document."""
    lossy = tried = 0
    for document in documents:
        tried += 1
        lossy += sp.Decode(sp.Encode(document)) != document
    return RoundTrip(tried, lossy)
