"""Code streams decoded on a GPU: a `Decoder` for `coding.codes.decode_codes` and `loader.loads`."""

import numpy as np
import torch

from golfpack.kernels import rans as device_rans
from golfpack.packer.format.rans.codes import Decoder
from golfpack.packer.format.rans.lanes import (
    Reader,
    corrupt,
)
from golfpack.packer.format.rans.tables import Tables

_COMPLAINTS = {
    device_rans.NO_WORD: "it ends too early",
    device_rans.NO_ESCAPE: "its escape list is too short",
    device_rans.OUT_OF_RANGE: "a code leaves the 32-bit range",
}


def device_decoder(device: torch.device, *, kernel: bool | None = None) -> Decoder:
    """A decoder that works on `device` and gives what `coding.rans.decode_run` does, errors included.

    `kernel` as in `kernels.rans.decode_run`.
    """

    def decode(reader: Reader, levels: np.ndarray, tables: Tables) -> np.ndarray:
        lanes = device_rans.Lanes(
            _tensor(reader.states.view(np.int64), device),
            _tensor(reader.words.view(np.int32), device),
            _tensor(reader.escapes, device),
            torch.tensor([reader.word, reader.escape, 0], device=device),
        )
        packed = device_rans.pack_tables(tables, device)
        codes, left = device_rans.decode_run(lanes, _tensor(levels, device), packed, kernel=kernel)
        reader.word, reader.escape, fault = left.position.tolist()
        if fault:
            raise corrupt(_COMPLAINTS[fault])
        reader.states[:] = left.states.cpu().numpy().view(np.uint64)
        return codes.cpu().numpy()

    return decode


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
