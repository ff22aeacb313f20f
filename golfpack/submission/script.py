"""A submission's script: decode the model beside it, build it, score the validation split.

`make.py` bundles this module with whatever of golfpack it needs into one file, which runs without
golfpack, alone or under torchrun. Everything is told by environment variables, as in the challenge's
scripts (openai/parameter-golf, `train_gpt.py`):

    VAL_FILES       glob of validation shards; DATA_PATH/fineweb_val_*.bin
    DATA_PATH       their folder; ./data/datasets/fineweb10B_sp<vocabulary>
    TOKENIZER_PATH  SentencePiece model; ./data/tokenizers/fineweb_<vocabulary>_bpe.model
    BYTE_FILES      glob of side-car shards that count bytes in the tokenizer's place; none
    SCORES          what to score, of plain, sliding and ttt; all there are
    WINDOW, STRIDE  of the windows; the trained length and 64
    LIMIT           tokens to read; all
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from golfpack.data.pieces import Pieces
from golfpack.data.shards import read_tokens
from golfpack.eval.bytes import ByteTable, loss_and_bpb
from golfpack.eval.documents import document_bounds
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Mode, Stream, Windowed
from golfpack.eval.scorer import Scorer
from golfpack.eval.sidecar import read_byte_counts
from golfpack.eval.ttt_lora import LoraOptions, LoraTtt
from golfpack.eval.ttt_phased import PhasedOptions, PhasedTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt
from golfpack.models.base import with_weights
from golfpack.models.golf.config import GolfConfig
from golfpack.models.golf.family import tensor_spec
from golfpack.models.golf.net import Golf
from golfpack.models.ranks import Group
from golfpack.packer.format.loader import load
from golfpack.spec import ModelSpec

# What `make.py` knows of the one model the script is for, and puts where these are read.
CONFIG: dict = {}
TTT_KIND = ""
TTT_OPTIONS: dict = {}


def main() -> None:
    """Score, and print a line for each score on the first rank."""
    group = join()
    scorer = read_model(group.device)
    tokens, target_bytes, bos = read_stream()
    stream = Stream.of(tokens, document_bounds(tokens, bos))
    for name, mode in modes():
        began = time.perf_counter()
        log = ScoreLog(stream.targets)
        mode.run(scorer, stream, group, log)
        log.merge(group)
        loss, bpb = loss_and_bpb(log.nll, target_bytes)
        if group.rank == 0:
            print(  # noqa: T201 (it is a script)
                f"{name} val_loss:{loss:.10f} val_bpb:{bpb:.10f} tokens:{stream.targets} "
                f"bytes:{target_bytes.sum()} seconds:{time.perf_counter() - began:.1f}",
                flush=True,
            )
    if group.size > 1:
        # Ranks leave together: gloo's threads may still hold tensors, and would abort who exits first.
        dist.barrier()
        dist.destroy_process_group()


def join() -> Group:
    """This process among those that torchrun started, each on a GPU of its own where there is one."""
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    if size == 1:
        return Group(device=device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    return Group(dist.get_rank(), size, device)


def read_model(device: str) -> Scorer:
    """The artifact beside this file, as a model that scores."""
    weights = load(Path(__file__).with_name("model.golf")).weights()
    with torch.device("meta"):
        net = Golf(GolfConfig(**CONFIG))
    model = with_weights(net, weights)
    tensors = [tensor_spec(n, tuple(p.shape), model) for n, p in model.named_parameters()]
    return Scorer(model, ModelSpec("golf", CONFIG, tuple(tensors)), device)


def read_stream() -> tuple[np.ndarray, np.ndarray, int]:
    """The tokens to score, the bytes of each target, and the token that begins documents."""
    told, size = os.environ.get, CONFIG["vocab_size"]
    limit = told("LIMIT")
    folder = told("DATA_PATH", f"./data/datasets/fineweb10B_sp{size}")
    tokenizer = told("TOKENIZER_PATH", f"./data/tokenizers/fineweb_{size}_bpe.model")
    pattern = told("VAL_FILES", f"{folder}/fineweb_val_*.bin")
    tokens = read_tokens(pattern, None if limit is None else int(limit))
    pieces = Pieces(Path(tokenizer).read_bytes())
    if sidecars := told("BYTE_FILES"):
        return tokens, read_byte_counts(sidecars, tokens, pieces.bos_id()), pieces.bos_id()
    return tokens, ByteTable.of_pieces(pieces, size).count(tokens), pieces.bos_id()


def modes() -> list[tuple[str, Mode]]:
    """What is asked for, by name."""
    window = int(os.environ.get("WINDOW") or CONFIG["seq_len"])
    stride = int(os.environ.get("STRIDE") or min(64, window))
    known: dict[str, Mode] = {
        "plain": Windowed(window, window),
        "sliding": Windowed(window, stride),
    }
    if TTT_KIND == "sgd":
        known["ttt"] = SgdTtt(window, stride, SgdOptions(**TTT_OPTIONS))
    elif TTT_KIND == "lora":
        known["ttt"] = LoraTtt(LoraOptions(**TTT_OPTIONS))
    elif TTT_KIND == "phased":
        known["ttt"] = PhasedTtt(PhasedOptions(**TTT_OPTIONS))
    asked = os.environ.get("SCORES", ",".join(known)).split(",")
    return [(name, known[name]) for name in asked]


if __name__ == "__main__":
    main()
