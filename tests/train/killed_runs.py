"""Train, killed again and again, then to the end; run as a script by `test_kills.py`.

Arguments: a folder, the name of a family, how many kills. Every attempt is a fork of this process, so
that it need not import torch anew, and dies by SIGKILL at a random moment.
"""

import dataclasses
import os
import random
import signal
import sys
import time
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

PATIENCE = 900.0


def run(folder: Path, name: str, user_file: Path) -> None:
    config = dataclasses.replace(
        settings_of(name, save_every=2, val_every=7, ema_decay=0.9, log_every=3), steps=40
    )
    train(
        config, MODELS[name], TOKENS, folder, family=family_of(name, user_file),
        val_tokens=HELD_OUT, resume=(folder / "train.jsonl").exists(),
    )  # fmt: skip


def attempt(folder: Path, name: str, user_file: Path, seconds: float) -> bool:
    """Run in a fork for so long; whether it ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            run(folder, name, user_file)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                sys.exit(f"an attempt failed with status {status}")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> None:
    folder, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    folder.mkdir()
    user_file = folder / "net.py"
    user_file.write_text(USER)
    began = time.monotonic()
    assert attempt(folder / "straight", name, user_file, PATIENCE)
    whole = time.monotonic() - began
    rng, killed = random.Random(name), 0
    while killed < kills:
        if attempt(folder / "killed", name, user_file, rng.uniform(0.0, 2.0 * whole / kills)):
            break
        killed += 1
    ended = attempt(folder / "killed", name, user_file, PATIENCE)
    assert ended
    last = torch.load(folder / "killed" / "last.pt", weights_only=True)
    np.save(folder / "figures.npy", np.array([killed, last["step"]]))


if __name__ == "__main__":
    main()
