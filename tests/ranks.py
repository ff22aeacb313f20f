"""Processes of one group without their launcher, which takes as long to start as they do."""

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

# Seconds that a group may take, and that its others have to end when one process fell.
LONGEST, GRACE = 300, 5


def run_ranks(size: int, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python ARGS` in every process of a group, as torchrun tells them who they are.

    Returns what all of them printed, in the order of the ranks, and the first error's exit status.
    """
    root = Path(__file__).resolve().parents[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'tests'}", "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    command = [sys.executable, *map(str, args)]
    ranks = [
        subprocess.Popen(
            command, cwd=cwd, env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]  # fmt: skip
    with ThreadPoolExecutor(size) as readers:
        told = [readers.submit(rank.communicate) for rank in ranks]
        end = time.monotonic() + LONGEST
        while not all(text.done() for text in told):
            # The others would wait for one that fell before the group had met.
            fallen = any(rank.poll() for rank in ranks)
            if fallen:
                wait(told, timeout=GRACE)
            if fallen or time.monotonic() > end:
                for rank in ranks:
                    rank.kill()
            time.sleep(0.05)
    printed = [text.result() for text in told]
    # One that was killed is not the one that fell.
    codes = [rank.returncode for rank in ranks]
    status = max(codes, default=0) or min(codes, default=0)
    out, error = ("".join(texts) for texts in zip(*printed, strict=True))
    return subprocess.CompletedProcess(command, status, out, error)
