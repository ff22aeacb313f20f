"""golfpack: the smallest artifact that keeps a language model's quality, under an exact byte budget.

The Python API, docs/api.md: `train`, `size`, `build`, `rebuild`, `plan`, `probe`, `evaluate`,
`generate`, `compare`, `inspect`, `verify` and `load`. Their code, and torch with it, is loaded when one
of them is first used.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Artifact", "build", "compare", "evaluate", "generate", "inspect", "load", "plan", "probe",
    "rebuild", "size", "train", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from golfpack.api import (
        Artifact,
        build,
        compare,
        evaluate,
        generate,
        inspect,
        load,
        plan,
        probe,
        rebuild,
        size,
        train,
        verify,
    )


class _Package(ModuleType):
    """This package, whose functions `build`, `compare`, `generate` and others bear folders' names.

    Importing a module of `golfpack.build` would put the folder in the function's place. It does not
    here: `golfpack.build` is the function, and `from golfpack.build.run import ...` finds the folder.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'golfpack' has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module("golfpack.api"), name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
