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
    status = 0
    with ThreadPoolExecutor(size) as readers:
        told = [readers.submit(rank.communicate) for rank in ranks]
        end = time.monotonic() + LONGEST
        try:
            while not all(text.done() for text in told):
                if time.monotonic() > end:
                    raise TimeoutError(f"{command} took more than {LONGEST} s")
                status = next((rank.returncode for rank in ranks if rank.poll()), 0)
                if status:  # the others would wait for one that fell before the group had met
                    wait(told, timeout=GRACE)
                    break
                time.sleep(0.05)
        finally:
            for rank in ranks:
                rank.kill()
        printed = [text.result() for text in told]
    status = status or next((rank.returncode for rank in ranks if rank.returncode), 0)
    out, error = ("".join(texts) for texts in zip(*printed, strict=True))
    return subprocess.CompletedProcess(command, status, out, error)
