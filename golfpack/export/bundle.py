"""One module out of many: what some names need, from the modules of a package, as readable source.

The shaker starts at entry points and follows names. Of a class it keeps the methods whose names are
used somewhere in what it keeps. Branches whose condition is known are left out first, and so is what
only they need. Nothing is executed but the keys of tables that are cut down.
"""

from collections.abc import Collection, Mapping

from golfpack.export.emit import emit
from golfpack.export.modules import Known, Modules, parted
from golfpack.export.shake import Shake

# Methods that libraries call by their names.
CALLED_FROM_OUTSIDE = frozenset({"forward", "backward", "setup_context"})
NOTHING = Known()


def bundle(
    entries: Mapping[str, str],
    *,
    known: Known = NOTHING,
    annotations: bool = True,
    called: Collection[str] = CALLED_FROM_OUTSIDE,
    root: str = "golfpack",
) -> str:
    """The source of one module that holds the entries and all that they need.

    Definitions keep their text, comments and docstrings, module by module, each module after those it
    imports. Names that clash take their module's name in front. Imports from outside the package stand
    at the top, or where they stood within functions.

    Args:
        entries: name in the bundle -> "module:name" of a function, class or constant.
        known: what may be left out.
        annotations: keep those that name nothing which is not needed anyway. Without one, a field of a
            dataclass is an `object`.
        called: names of methods that are kept though nothing in the bundle mentions them.
        root: the package whose modules are bundled; all others are imported.

    Raises:
        UsageError: a name that is nowhere, a table that cannot be cut down, or code that cannot be
            bundled: `import *`, a module used as a value.
    """
    modules = Modules(root, known)
    shake = Shake(modules, frozenset(called))
    for name, target in entries.items():
        shake.entry(name, modules.resolve(*parted(target)))
    return emit(modules, shake, shake.annotated() if annotations else [])
