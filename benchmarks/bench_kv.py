"""KV caches by format: bytes, what they cost in KL against fp16, tokens per second.

    python benchmarks/bench_kv.py books.pt --tokens books_val.bin --window 512
    python benchmarks/bench_kv.py --train train.bin --save dba.pt --steps 400
    python benchmarks/bench_kv.py dba.pt --tokens val.bin --window 256

Windows of validation tokens are read token by token through each cache; KL and rise of the loss are
means over all targets, against the same windows under fp16. Bytes are those of the buffers of one
window. Tokens per second: one window, one sequence, one thread, in seconds of the processor's time, so
that other work on the machine counts less, the best of several runs that take turns. --train makes a
small decoupled-bottleneck model first, as there is none to download.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from golfpack.artifact import open_model
from golfpack.data.shards import read_tokens
from golfpack.kv.cache import StoredCache, observe
from golfpack.kv.layout import CacheLayout
from golfpack.kv.plans import Plan
from golfpack.kv.policy import stored_as
from golfpack.kv.quality import compare_logits, forced_logits
from golfpack.models.bottleneck.family import BOTTLENECK

POLICIES = [
    ("fp32", 0), ("fp16", 0), ("q8_0", 128), ("q8_0", 0), ("q4_0", 128), ("q4_0", 0), ("nf4", 128),
    ("nf4", 0),
]  # fmt: skip
DBA = {
    "vocab_size": 1024, "num_layers": 4, "dim": 128, "num_heads": 4, "num_kv_heads": 4,
    "mlp_hidden": 384, "embed_dim": 128, "attn_dim": 64, "sem_dim": 32, "geo_dim": 64, "seq_len": 256,
}  # fmt: skip


def train(shard: str, steps: int, save: Path) -> None:
    """A small decoupled-bottleneck model, by AdamW on random windows."""
    tokens = torch.from_numpy(read_tokens(shard, None).astype(np.int64))
    config = BOTTLENECK.spec(DBA).config
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for t in BOTTLENECK.spec(config).tensors:
        w = 0.02 * torch.randn(t.shape, generator=generator)
        weights[t.name] = (torch.zeros(t.shape) if t.role == "vector" else w).numpy()
        if ".ln" in t.name or t.name.startswith("ln_f"):
            weights[t.name] += float(t.name.endswith("weight"))
    model = BOTTLENECK.module(config, weights).requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(steps):
        rate = min(1.0, (step + 1) / 20) * min(1.0, (steps - step) / (0.5 * steps))
        optimiser.param_groups[0]["lr"] = 3e-3 * rate
        starts = torch.randint(len(tokens) - 257, (8,), generator=generator)
        batch = torch.stack([tokens[s : s + 257] for s in starts])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    torch.save({name: p.detach() for name, p in model.state_dict().items()}, save)


@torch.no_grad()
def seconds(module: nn.Module, window: torch.Tensor, layout: CacheLayout, plan: Plan) -> float:
    """For one window (1, T), token by token: of the processor's time."""
    cache = StoredCache(layout, window.shape[1], plan)
    began = time.process_time()
    for part in window.split(1, dim=1):
        module(part, cache=cache)
    return time.process_time() - began


def table(args: argparse.Namespace) -> None:
    """Print a row for each cache."""
    model = open_model(args.checkpoint, tuple(args.set))
    module, length = model.module(), args.window
    stream = read_tokens(args.tokens, args.windows * length + 1).astype(np.int64)
    read = torch.from_numpy(stream[:-1]).view(-1, length)
    targets = torch.from_numpy(stream[1:]).view(-1, length)
    plain = observe(module)
    layouts = [stored_as(plain, kind, residual) for kind, residual in POLICIES]
    reference = forced_logits(module, read, stored_as(plain, "fp16"), 0)
    best = [float("inf")] * len(layouts)
    for _ in range(args.runs):
        for i, layout in enumerate(layouts):
            best[i] = min(best[i], seconds(module, read[:1], layout, Plan(args.reader)))
    print(f"{model.family.name}, {plain.layers} layers, {read.numel():,} targets, window {length}")
    print("| cache | newest in fp16 | bytes | of fp16 | KL to fp16 | rise of loss | tokens/s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    fp16 = stored_as(plain, "fp16").bytes(length)
    for (kind, residual), layout, took in zip(POLICIES, layouts, best, strict=True):
        q = compare_logits(reference, forced_logits(module, read, layout, 0), targets)
        size, share = layout.bytes(length), layout.bytes(length) / fp16
        print(
            f"| {kind} | {residual or '-'} | {size:,} | {share:.3f} | {q.kl:.2e} | {q.nll_rise:+.1e} "
            f"| {length / took:,.0f} |",
            flush=True,
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--tokens", help="validation shard")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--reader", default="tables", help="tables or loops")
    parser.add_argument("--set", nargs="*", default=[], help="model.OPTION=VALUE")
    parser.add_argument("--train", help="shard to train a small bottleneck model on")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--save", type=Path, help="where that model goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train:
        train(args.train, args.steps, args.save)
    if args.checkpoint:
        table(args)


if __name__ == "__main__":
    main()
