"""The stand-alone decoder of an artifact, made from golfpack's own loader: one file, numpy alone.

Byte codecs, code coders, filters and format versions that the artifact does not use are left out by
cutting their tables down; a file that asks for one is refused like a damaged one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from golfpack import __version__
from golfpack.export.bundle import Known, bundle
from golfpack.export.minify import minify, pack
from golfpack.export.slim import slim
from golfpack.packer.format.codestreams import DECODERS
from golfpack.packer.format.container import VERSIONS
from golfpack.packer.format.loader import Artifact

_FORM = "golfpack.packer.format"
ENTRIES = {
    "load": "golfpack.export.standalone:load",
    "DecodeError": "golfpack.errors:CorruptError",
}
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
    """The decoder in few bytes, as `readable` takes it; for this artifact and others with its fields.

    Left out are the checks of what no file that golfpack wrote has, and optional fields of the format
    that the artifact does not use. What stays: the file's sha256, the coder's end state, the length of
    every decoded stream, that no stream is left over, and one error for whatever else goes wrong.
    """
    known = _known(uses(artifact), artifact.family, ties)
    known = Known(
        {**known.values, **_facts(artifact)},
        {**known.only, f"{_FORM}.rawfloat:RAW_STORAGE": _raw_types(artifact)},
        {**known.instead, **_trusting(artifact, ties)},
    )
    entries = {**ENTRIES, "load": "golfpack.export.standalone:load_trusting"}
    source = bundle(entries, known=known, annotations=False)
    small = slim(source, checks=CHECKS, error="DecodeError", keep=ENTRIES)
    return pack(minify(small, keep=ENTRIES))


# Phrases of the messages of those checks that the packed form keeps.
CHECKS = (
    "the file does not match its sha256",
    "the lanes do not end in their start state",
    "no tensor in the manifest needs stream",
    "it holds {more} bytes",  # a decoded stream is longer or shorter than its tensors ask for
)


def _facts(artifact: Artifact) -> dict[str, Any]:
    """Conditions of the loader that come out alike for every tensor of an artifact."""
    entries = [e for e, _ in artifact.tensors.values()]
    matrices = [m for e in entries for m in e.matrices]
    fields = [f for _, f in matrices]
    quantized = [e.fields for e in entries if "raw" not in e.fields]
    found: dict[str, Any] = {"coder in DECODERS": True, f"{_FORM}.rans.codes:decoder": None}

    def tell(seen: Iterable[bool], yes: Sequence[str], no: Sequence[str] = ()) -> None:
        values = set(seen)
        if len(values) == 1:
            value = values.pop()
            found.update(dict.fromkeys(yes, value))
            found.update(dict.fromkeys(no, not value))

    grouped = ["steps.group is None", "group is None", '"group" not in fields']
    tell(("group" in f for f in fields), ['"group" in fields'], grouped)
    logs = ['fields["rows"] != "f16"', "isinstance(steps, LogSteps)"]
    tell((f["rows"] != "f16" for f in fields), logs, ['fields["rows"] == "f16"'])
    columns = ['"cols" in fields', "self.steps.col is not None"]
    no_columns = ["steps.col_log is None", "self.col_log is None"]
    tell(("cols" in f for f in fields), columns, no_columns)
    tell(("sorted" in f for f in quantized), ["slot.sorted", "s.sorted"])
    listed = ['"stream" in self.fields', "isinstance(codes, list)"]
    tell(("stream" in f for f in quantized), listed)
    corrected = ["self.correction is not None", "factors"]
    tell(("correction" in f for f in quantized), corrected, ['"correction" not in self.fields'])
    tell((0 in shape for shape, _ in matrices), ["0 in s.shape"], ["0 not in s.shape"])
    if matrices and not any(0 in shape for shape, _ in matrices):
        found["0 not in matrix.shape"] = True
    if "bf16" not in _raw_types(artifact):
        found['dtype != "bf16"'] = True
    return found


def _raw_types(artifact: Artifact) -> list[str]:
    return sorted({e.fields["raw"] for e, _ in artifact.tensors.values() if "raw" in e.fields})


def _trusting(artifact: Artifact, ties: Mapping[str, str]) -> dict[str, str]:
    """Shorter stand-ins for parts of the loader, where the artifact has no need of the whole."""
    needs = uses(artifact)
    found = {
        "golfpack.errors:CorruptError": "class CorruptError(ValueError):\n    pass",
        "golfpack.errors:UsageError": "UsageError = CorruptError",
        "golfpack.base.convert:make": "def make(kind, options, what):\n    return kind(**options)",
    }
    if needs.codecs == {"lzma"}:
        found[f"{_FORM}.codecs:make_codec"] = """
def make_codec(config):
    return CODECS[config["id"]](config["preset"])
"""
    if not needs.filters:
        found[f"{_FORM}.filters:make_filter"] = """
def make_filter(config):
    raise CorruptError
"""
    if not any("sorted" in e.fields for e, _ in artifact.tensors.values()):
        found[f"{_FORM}.streams:_restored"] = """
def _restored(slots, codes, side, streams):
    return codes
"""
    if not ties:
        found["golfpack.export.standalone:_with_ties"] = """
def _with_ties(artifact):
    return artifact.weights()
"""
    return found


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
