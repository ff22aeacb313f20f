"""Tokens are held to the tokenizer that made them; another of the same size is refused."""

import argparse
import inspect
from pydoc_data.topics import topics

import numpy as np
import pytest

from golfpack.data.belongs import FEW, OWN, own_share, refuse_other_tokenizer
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import UsageError

TEXTS = [topics[name] for name in sorted(topics)][:30]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Two tokenizers of one size, of other texts."""
    folder, found = tmp_path_factory.mktemp("tokenizers"), []
    for name, texts in (("own", TEXTS), ("other", [inspect.getsource(argparse)])):
        train_tokenizer(texts, 500, folder / f"{name}.model")
        found.append(load_tokenizer(folder / f"{name}.model"))
    return found


@pytest.fixture(scope="module")
def tokens(tokenizers):
    return np.asarray(encode_documents(tokenizers[0], TEXTS)).astype(np.int64)


def test_a_tokenizer_knows_its_own_tokens_and_no_others(tokenizers, tokens):
    own, other = (own_share(t, tokens) for t in tokenizers)
    assert own > 0.99 > OWN > 0.95 > other
    refuse_other_tokenizer(tokenizers[0], tokens, "own.model")
    with pytest.raises(UsageError, match=r"other\.model did not make these tokens"):
        refuse_other_tokenizer(tokenizers[1], tokens, "other.model")


@pytest.mark.parametrize("cut", ["few", "unknown"])
def test_where_text_says_nothing_nothing_is_refused(tokenizers, tokens, cut):
    tokens = tokens[: FEW // 2] if cut == "few" else tokens.copy()
    if (
        cut == "unknown"
    ):  # a tokenizer that lacks characters does not give back what it made of them
        tokens[::50] = tokenizers[0].unk_id()
    for tokenizer in tokenizers:
        assert own_share(tokenizer, tokens) is None
        refuse_other_tokenizer(tokenizer, tokens, "any.model")
