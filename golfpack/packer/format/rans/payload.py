"""What surrounds the lanes' words: how many lanes, heads of whoever uses them, escapes, first states.

lanes | escape count in bytes | heads | escapes | lane states | words
"""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from golfpack.packer.format.rans import lanes as rans
from golfpack.packer.format.rans.lanes import Reader, corrupt
from golfpack.packer.format.rans.tables import Tables

Decoder = Callable[[Reader, NDArray[np.uint8], Tables, int], NDArray[np.int32]]

_STATE_BYTES = 8
_MAX_LANES_LOG2 = 12
_CODES_PER_LANE = 1 << 15  # a lane costs about 6 bytes: 0.05% at 3 bits a code
_VARINT_BYTES = 5
# The cheapest code costs log2(4096 / 4095) bits: no payload of B bytes holds more than this times B.
_CODES_PER_BYTE = 8 * 2840
# Set in the byte that tells the number of lanes: scale models are told by `vectors`.
VECTORS = 0x80


def encode_payload(
    runs: list[tuple[NDArray[np.int32], NDArray[np.uint8]]],
    tables: Tables,
    heads: bytes = b"",
    flags: int = 0,
) -> bytes:
    """Runs of (integers, levels) under heads; the last run says how many lanes there are.

    Args:
        runs: each (n,) integers and (n,) levels.
        tables: what they are coded with.
        heads: of whoever uses it, as they are.
        flags: VECTORS or none, kept beside the number of lanes.
    """
    from golfpack.packer.format.rans import fast

    lanes_log2 = _lanes_log2(len(runs[-1][0]))
    states, words, escapes = fast.encode_runs(runs, 1 << lanes_log2, tables)
    packed = _pack_varints(escapes)
    return b"".join(
        [
            bytes([lanes_log2 | flags]),
            _pack_varints(np.array([len(packed)])),
            heads,
            packed,
            states.astype("<u8").tobytes(),
            words.astype("<u4").tobytes(),
        ]
    )


def check_claim(payload: bytes, count: int) -> None:
    """Raise CorruptError where a payload is too short for so many integers, before they are made."""
    if count > _CODES_PER_BYTE * len(payload):
        raise corrupt(f"{len(payload):,} bytes cannot hold {count:,} codes")


def parse_payload(payload: bytes, head_bytes: int, flags: int = 0) -> tuple[bytes, Reader]:
    """The heads, and the reader of what follows.

    Args:
        payload: of `encode_payload`.
        head_bytes: how long the heads are.
        flags: those that it was given.

    Raises:
        CorruptError: other flags, or lengths that do not fit.
    """
    if len(payload) < 2:
        raise corrupt("it ends too early")
    lanes_log2 = payload[0] - flags
    if not 0 <= lanes_log2 <= _MAX_LANES_LOG2:
        raise corrupt(f"2^{lanes_log2} lanes")
    width = next((n for n, b in enumerate(payload[1 : 1 + _VARINT_BYTES], 1) if b < 128), None)
    if width is None:
        raise corrupt("the escape count does not end")
    escape_bytes = int(_unpack_varints(payload[1 : 1 + width])[0])
    at = 1 + width
    ends = np.cumsum([at, head_bytes, escape_bytes, _STATE_BYTES << lanes_log2])
    if ends[-1] > len(payload) or (len(payload) - ends[-1]) % 4:
        raise corrupt("its length fits no number of words")
    escapes = _unpack_varints(payload[ends[1] : ends[2]])
    states = np.frombuffer(payload[ends[2] : ends[3]], "<u8").astype(np.uint64)
    if np.any(states < rans.STATE_START):
        raise corrupt("a lane state is too small")
    words = np.frombuffer(payload[ends[3] :], "<u4").astype(np.uint32)
    return payload[at : ends[1]], Reader(states, words, escapes)


def default_decoder() -> Decoder:
    """The compiled decoder where numba is installed, else its numpy twin.

    That is 4 times slower with 1,024 lanes, and more with fewer.
    """
    if find_spec("numba") is None:
        return rans.decode_run
    from golfpack.packer.format.rans import fast

    return fast.decode_run


def _lanes_log2(count: int) -> int:
    return min(max(count // _CODES_PER_LANE, 1).bit_length() - 1, _MAX_LANES_LOG2)


def _pack_varints(values: NDArray[np.int64]) -> bytes:
    """LEB128: seven bits a byte, low first, the top bit set on all but a number's last."""
    digits = values[:, None] >> 7 * np.arange(_VARINT_BYTES)
    packed = digits & 127 | (digits > 127) << 7
    present = (digits > 0) | (np.arange(_VARINT_BYTES) == 0)
    return packed[present].astype(np.uint8).tobytes()


def _unpack_varints(packed: bytes) -> NDArray[np.int64]:
    """The numbers of `_pack_varints`."""
    data = np.frombuffer(packed, np.uint8)
    if len(data) == 0:
        return np.zeros(0, np.int64)
    last = np.flatnonzero(data < 128)
    first = np.concatenate([[0], last[:-1] + 1])
    if len(last) == 0 or last[-1] != len(data) - 1 or np.any(last - first >= _VARINT_BYTES):
        raise corrupt("an escape does not end")
    place = np.arange(len(data)) - np.repeat(first, last - first + 1)
    return np.add.reduceat((data & 127).astype(np.int64) << (7 * place), first)
