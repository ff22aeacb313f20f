"""Launch settings of the kernels: tried once on the GPU at hand, remembered in Triton's cache."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import triton

from golfpack.kernels.select import interpreted


def tuned(settings: Sequence[Mapping[str, Any]], key: Sequence[str]) -> Callable[[Any], Any]:
    """Decorates a kernel: the fastest of `settings` for each value of the arguments in `key`.

    Types of tensors belong to the key by themselves. A setting has `num_warps`, `num_stages` and the
    kernel's own block sizes. The interpreter takes the first.
    """
    configs = []
    for setting in settings[:1] if interpreted() else settings:
        launch = {n: v for n, v in setting.items() if n in ("num_warps", "num_stages")}
        blocks = {n: v for n, v in setting.items() if n not in launch}
        configs.append(triton.Config(blocks, **launch))
    return triton.autotune(configs, list(key), cache_results=True)
