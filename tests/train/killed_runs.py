"""Train, killed again and again, then to the end; run as a script by `test_kills.py`.

Arguments: a folder, the name of a family, how many kills. Every attempt is a fork of this process, so
that it need not import torch anew. It dies at a random moment of its own CPU time, however busy the
machine is, by a signal that nobody handles: as by SIGKILL, no code of its own runs any more.
"""

import dataclasses
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from train.test_all_families import (
    HELD_OUT,
    MODELS,
    TOKENS,
    USER,
    family_of,
    settings_of,
)

from golfpack.train.trainer import train


def run(folder: Path, name: str, user_file: Path) -> None:
    config = dataclasses.replace(
        settings_of(name, save_every=2, val_every=7, ema_decay=0.9, log_every=3), steps=40
    )
    train(
        config, MODELS[name], TOKENS, folder, family=family_of(name, user_file),
        val_tokens=HELD_OUT, resume=(folder / "train.jsonl").exists(),
    )  # fmt: skip


def attempt(folder: Path, name: str, user_file: Path, seconds: float = 0.0) -> tuple[bool, float]:
    """Run in a fork for so much CPU time (0: to the end); whether it ended by itself, its CPU time."""
    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            run(folder, name, user_file)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    _, status, usage = os.wait4(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
    if status and not killed:
        sys.exit(f"an attempt failed with status {status}")
    return not killed, usage.ru_utime + usage.ru_stime


def main() -> None:
    folder, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    folder.mkdir()
    user_file = folder / "net.py"
    user_file.write_text(USER)
    ended, whole = attempt(folder / "straight", name, user_file)
    assert ended
    rng, killed = random.Random(name), 0
    while killed < kills:
        if attempt(folder / "killed", name, user_file, rng.uniform(0.0, 2.0 * whole / kills))[0]:
            break
        killed += 1
    assert attempt(folder / "killed", name, user_file)[0]
    last = torch.load(folder / "killed" / "last.pt", weights_only=True)
    np.save(folder / "figures.npy", np.array([killed, last["step"]]))


if __name__ == "__main__":
    main()
