"""Model families. A family is a folder beside this file, and its line in `FAMILIES`.

Importing this loads torch and the families, and nothing else that is slow.
"""

from golfpack.errors import UsageError
from golfpack.models.alph.family import ALPH
from golfpack.models.base import Family
from golfpack.models.bottleneck.family import BOTTLENECK
from golfpack.models.golf.family import GOLF
from golfpack.models.gpt2.family import GPT2
from golfpack.models.gpt_neox.family import GPT_NEOX
from golfpack.models.llama.family import LLAMA
from golfpack.models.tensors import TENSORS
from golfpack.models.user.family import USER

# In the order in which they are tried.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GOLF,
        BOTTLENECK,
        ALPH,
        LLAMA,
        GPT2,
        GPT_NEOX,
        USER,
        TENSORS,
    )
}


def find_family(name: str) -> Family:
    """The family of that name, or UsageError listing the known ones."""
    if name not in FAMILIES:
        raise UsageError(f"unknown model family {name!r}", f"known: {', '.join(FAMILIES)}")
    return FAMILIES[name]
