"""Document boundaries: every document of a challenge shard begins with BOS."""

import numpy as np


def document_bounds(tokens: np.ndarray, bos: int) -> np.ndarray:
    """First position of each document, then the number of targets.

    Document d holds the positions bounds[d] .. bounds[d + 1] - 1 and predicts the targets of the same
    numbers: the BOS that follows it is its last target, so that every target belongs to one document.
    What precedes the first BOS is a document too; a stream without BOS is one document.

    Args:
        tokens: (n,) integers, n >= 2.
        bos: id of the BOS token; -1 where the tokenizer has none.

    Returns:
        (documents + 1,) int64, strictly increasing, from 0 to n - 1.
    """
    targets = len(tokens) - 1
    starts = np.flatnonzero(tokens[1:targets] == bos) + 1
    return np.concatenate(([0], starts, [targets])).astype(np.int64)
