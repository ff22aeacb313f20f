"""The stand-alone decoder of an artifact, made from golfpack's own loader: one file, numpy alone.

Byte codecs, code coders, filters and format versions that the artifact does not use are left out by
cutting their tables down; a file that asks for one is refused like a damaged one.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from golfpack import __version__
from golfpack.export.bundle import Known, bundle
from golfpack.export.minify import minify, pack
from golfpack.packer.format.codestreams import DECODERS
from golfpack.packer.format.container import VERSIONS
from golfpack.packer.format.loader import Artifact

_FORM = "golfpack.packer.format"
ENTRIES = {
    "load": "golfpack.export.standalone:load",
    "DecodeError": "golfpack.errors:CorruptError",
}
# What makes errors out of messages, by its name in the bundle.
_ERRORS = frozenset({"DecodeError", "UsageError", "corrupt"})
# Packages beyond numpy and Python's own library, by the codec that needs them.
PACKAGES = {"brotli": "brotli", "zstd": "zstandard"}
# What the loader takes from elsewhere for people's sake, in a form that a decoder needs.
_INSTEAD = {
    "golfpack.errors:GolfpackError": '''
class GolfpackError(ValueError):
    """A message, and what to do about it."""

    def __init__(self, message, hint=None):
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message, self.hint = message, hint
''',
    "golfpack.errors:CorruptError": '''
class CorruptError(GolfpackError):
    """The file is damaged, is no artifact, or needs what this decoder was made without."""
''',
    "golfpack.errors:UsageError": '''
class UsageError(GolfpackError):
    """What a file asks for is not known; it leaves `load` as a DecodeError."""
''',
    "golfpack.base.convert:make": '''
def make(kind, options, what):
    """`kind(**options)`; all options are integers."""
    if not all(type(value) is int for value in options.values()):
        raise UsageError(f"{what} has an option that is no integer", None)
    return kind(**options)
''',
}


@dataclass(frozen=True)
class Uses:
    """What decoding an artifact takes.

    Attributes:
        version: of the format.
        codecs: ids of byte codecs.
        filters: ids of filters.
        coders: keys of the table of code decoders.
    """

    version: int
    codecs: frozenset[str]
    filters: frozenset[str]
    coders: frozenset[str]

    @property
    def packages(self) -> list[str]:
        """Packages beyond numpy that its codecs need."""
        return sorted(PACKAGES[c] for c in self.codecs if c in PACKAGES)


def uses(artifact: Artifact) -> Uses:
    """What decoding this artifact takes."""
    manifest = artifact.container.manifest
    codes: Any = manifest["codes"]
    configs = [manifest["side"], *(codes if isinstance(codes, list) else [codes])]
    ids = [_id(config["codec"]) for config in configs]
    version = artifact.container.version
    return Uses(
        version,
        frozenset([VERSIONS[version].manifest.codec_id, *(i for i in ids if i not in DECODERS)]),
        frozenset(_id(f) for config in configs for f in config.get("filters", [])),
        frozenset(i if i in DECODERS else "bytes" for i in ids[1:]),
    )


def _id(config: dict[str, Any] | str) -> str:
    return config if isinstance(config, str) else config["id"]


def readable(artifact: Artifact, ties: Mapping[str, str]) -> str:
    """The decoder's source.

    Args:
        artifact: what it is for; other artifacts with the same coders decode as well.
        ties: further names of tied tensors -> the name in the artifact.
    """
    needs = uses(artifact)
    body = bundle(ENTRIES, known=_known(needs, artifact.family, ties))
    body = body.replace("CorruptError", "DecodeError")  # in docstrings
    return f'"""{_about(artifact, needs)}"""\n\n{body}{_MAIN}'


def packed(artifact: Artifact, ties: Mapping[str, str]) -> bytes:
    """The decoder in few bytes, as `readable` takes it: the same checks, without their messages."""
    known = _known(uses(artifact), artifact.family, ties)
    tree = _Terse().visit(ast.parse(bundle(ENTRIES, known=known, annotations=False)))
    return pack(minify(ast.unparse(tree), keep=ENTRIES))


class _Terse(ast.NodeTransformer):
    """Puts one word for the messages of errors, and for the values in them."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if getattr(node.func, "id", "") in _ERRORS:
            return ast.Call(node.func, [ast.Constant("damaged")], [])
        return self.generic_visit(node)


_MAIN = """

if __name__ == "__main__":
    import sys

    for name, weights in load(sys.argv[1]).items():
        print(name, *weights.shape)
"""


def decoding(needs: Uses) -> Known:
    """What a bundle that holds the loader can do without, where it decodes what `needs` says."""
    return Known(
        values={'find_spec("numba") is None': True},
        only={
            f"{_FORM}.codecs:CODECS": needs.codecs,
            f"{_FORM}.filters:FILTERS": needs.filters,
            f"{_FORM}.codestreams:DECODERS": needs.coders,
            f"{_FORM}.container:VERSIONS": [needs.version],
        },
        instead=_INSTEAD,
    )


def _known(needs: Uses, family: str, ties: Mapping[str, str]) -> Known:
    known = decoding(needs)
    told = {
        "golfpack.export.standalone:FAMILY": f"FAMILY = {family!r}",
        "golfpack.export.standalone:TIES": f"TIES = {dict(ties)!r}",
    }
    return replace(known, instead={**known.instead, **told})


def _about(artifact: Artifact, needs: Uses) -> str:
    packages = needs.packages
    takes = "numpy and Python's own library, nothing more."
    if packages:
        takes = (
            f"numpy and {' and '.join(packages)} (pip install numpy {' '.join(packages)}).\n"
            "An artifact of golfpack's recipe `rd`, its default, takes numpy alone."
        )
    coders = sorted(needs.codecs | needs.filters | (needs.coders - {"bytes"}))
    return f"""Decoder of a .golf artifact: a language model's weights in few bytes.

    from golf_decode import load
    weights = load("model.golf")  # name -> float32 numpy array

It takes {takes}
Every digest and bound of the format is checked; a damaged file ends in a DecodeError.

golfpack {__version__} made this file from its own loader, for the artifact with sha256
{artifact.container.sha256}
and for others of format version {needs.version} with these codings: {", ".join(coders)}.
The format: docs/format.md of golfpack.
"""
