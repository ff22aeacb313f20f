"""Two processes find what one finds."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import agree
from eval.toys import run_mode, scorer_of, toy_tokens
from ranks import run_ranks

from golfpack.errors import UsageError
from golfpack.eval.modes import Windowed
from golfpack.eval.ttt_lora import LoraOptions, LoraTtt
from golfpack.eval.ttt_phased import PhasedOptions, PhasedTtt
from golfpack.eval.ttt_sgd import SgdOptions, SgdTtt
from golfpack.models.ranks import Group, joined

MODES = {
    "plain": Windowed(32, 32),
    "sliding": Windowed(32, 12),
    "sgd": SgdTtt(16, 8, SgdOptions(chunk_tokens=100, batch_seqs=5, epochs=2)),
    "lora": LoraTtt(LoraOptions(rank=3, chunk=8, window=32, batch_docs=2, lr=0.01)),
    "phased": PhasedTtt(
        PhasedOptions(
            rank=3, chunk=8, window=32, batch_docs=2, prefix_docs=5, phases=2, global_window=8,
            global_chunk_tokens=24, global_lr=0.01,
        )
    ),
}  # fmt: skip
TOKENS = toy_tokens(401)

_RANK = """
import os
import sys
from pathlib import Path
import numpy as np
import torch
from eval.test_dist import MODES, TOKENS
from eval.toys import BOS, scorer_of
from golfpack.models.ranks import joined
from golfpack.eval.documents import document_bounds
from golfpack.eval.log import ScoreLog
from golfpack.eval.modes import Stream
from golfpack.models.checkpoint import load_checkpoint

torch.set_num_threads(1)
found = {}
with joined("cpu") as group:
    assert group.size == 2
    for name, mode in MODES.items():
        log = ScoreLog(len(TOKENS) - 1)
        stream = Stream.of(TOKENS, document_bounds(TOKENS, BOS))
        mode.run(scorer_of(load_checkpoint(sys.argv[1])), stream, group, log)
        found[name + "_own"] = np.array([(log.times > 0).sum()])
        log.merge(group)
        assert (log.times == 1).all(), name
        found[name] = log.nll
    np.savez(Path(sys.argv[2]) / f"{group.rank}.npz", **found)
os._exit(0)  # as the command line does: torch's threads may abort a process that winds down
"""


def torchrun(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )  # fmt: skip


def test_two_ranks_find_what_one_finds(tiny, tiny_path, tmp_path):
    script = tmp_path / "a_rank.py"
    script.write_text(_RANK)
    run = run_ranks(2, script, tiny_path, tmp_path, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    ranks = [np.load(tmp_path / f"{rank}.npz") for rank in (0, 1)]
    for name, mode in MODES.items():
        alone = run_mode(mode, scorer_of(tiny), TOKENS).nll
        assert ranks[0][name].tolist() == ranks[1][name].tolist()
        agree(ranks[0][name].mean(), alone.mean())
        np.testing.assert_allclose(ranks[0][name], alone, atol=1e-4, err_msg=name)
        shares = [int(r[f"{name}_own"][0]) for r in ranks]
        assert sum(shares) == len(TOKENS) - 1
        assert min(shares) > 50, name


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (7, 3), (9, 3), (2, 1)])
def test_shares_cover_everything_once(count, size):
    parts = [range(count)[Group(rank, size).share(count)] for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_process_exchanges_nothing():
    parameter = torch.ones(2, requires_grad=True)
    group = Group()
    assert group.sum_array(np.arange(3)).tolist() == [0, 1, 2]
    group.sum_gradients([parameter])
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.0, 0.0]


def test_ranks_that_cannot_meet(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="cannot meet"), joined("cpu"):
        pass
