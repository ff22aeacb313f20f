"""An artifact's tensors encode to the artifact again, whatever coded it."""

from pathlib import Path

import pytest
from artifact_sample import CODINGS, small_blob

from golfpack.packer.format.loader import loads
from golfpack.packer.format.reencode import encode_again

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*.golf"))


@pytest.mark.parametrize("coding", CODINGS)
def test_every_coding_encodes_to_the_same_bytes_again(coding):
    blob = small_blob(coding)
    assert encode_again(loads(blob)) == blob


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_a_golden_file_decodes_to_the_same_weights_after_encoding_again(path):
    # Not the same bytes: a codec's library may be another one than the golden file's.
    before = loads(path.read_bytes())
    after = loads(encode_again(before)).weights()
    for name, w in before.weights().items():
        assert (w == after[name]).all()
