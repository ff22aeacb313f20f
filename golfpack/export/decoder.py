"""The stand-alone decoder of an artifact, made from golfpack's own loader: one file, numpy alone.

Byte codecs, code coders, filters and format versions that the artifact does not use are left out by
cutting their tables down; a file that asks for one is refused like a damaged one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from golfpack import __version__
from golfpack.export.bundle import bundle
from golfpack.export.minify import minify, pack
from golfpack.export.modules import Known
from golfpack.export.quiet import quiet
from golfpack.packer.format.codestreams import DECODERS
from golfpack.packer.format.container import VERSIONS
from golfpack.packer.format.loader import Artifact
from golfpack.packer.format.stepcoding import OLD_STEPS

_FORM = "golfpack.packer.format"
ERROR = "DecodeError"
ENTRIES = {
    "load": "golfpack.export.standalone:load",
    ERROR: "golfpack.errors:CorruptError",
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

# What an artifact may do without: keys of a tensor in the manifest, and others. "f16" stands for rows of
# that type, "logs" for log steps, "empty" for a tensor without weights, "side" for streams under the
# codec of that name, "tokenizer" for one inside.
FEATURES = frozenset(
    {"raw", "correction", "group", "sorted", "stream", "f16", "logs", "empty", "side", "tokenizer"}
)
SIDE_STREAMS = frozenset({"rows", "cols", "raw", "perms"})
# Of an artifact without a feature: expression of a module -> its value.
_WITHOUT: dict[str, dict[str, Any]] = {
    "raw": {
        f'{_FORM}.streams:"raw" in self.fields': False,
        f'{_FORM}.streams:"raw" in e.fields': False,
        f'{_FORM}.streams:_Reader(side, left, "raw", sum(map(_raw_bytes, entries)))': None,
    },
    "correction": {
        f'{_FORM}.streams:"correction" not in self.fields': True,
        f"{_FORM}.tensors:self.correction is not None": False,
    },
    "group": {
        f'{_FORM}.stepcoding:"group" in fields': False,
        f'{_FORM}.stepcoding:"group" not in fields': True,
        f"{_FORM}.steps:group is None": True,
    },
    "f16": {
        f'{_FORM}.stepcoding:fields["rows"] == "f16"': False,
        f'{_FORM}.stepcoding:fields["rows"] != "f16"': True,
        f"{_FORM}.codestreams:isinstance(steps, LogSteps)": True,
    },
    "side": {f'{_FORM}.streams:ByteStream.from_config(manifest["side"])': None},
    "tokenizer": {f"{_FORM}.loader:read_attached(container)": None},
    "stream": {
        f'{_FORM}.streams:"stream" in self.fields': False,
        f"{_FORM}.streams:isinstance(codes, list)": False,
    },
}
_NOT_SORTED = """
def _restored(slots, codes, side, streams):
    return codes
"""
# Without side streams, steps are logs.
_LOGS_ALONE = """
def _told_steps(matrices, side, streams):
    plans = [step_plan(fields, shape) for shape, fields in matrices]
    vectors = iter(LOGS["vectors"](streams.pop("steps"), sum(plans, [])))
    for plan in plans:
        yield b"", {
            name: grain * next(vectors).astype(np.int64) for (name, grain), _ in plan
        }
"""


@dataclass(frozen=True)
class Uses:
    """What decoding an artifact takes.

    Attributes:
        version: of the format.
        codecs: ids of byte codecs.
        filters: ids of filters.
        coders: keys of the table of code decoders.
        features: what few artifacts have, of FEATURES.
    """

    version: int
    codecs: frozenset[str]
    filters: frozenset[str]
    coders: frozenset[str]
    features: frozenset[str] = frozenset()

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
        frozenset(_features(manifest)),
    )


def _features(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Those that a manifest asks for."""
    if isinstance(manifest["codes"], list):
        yield "stream"
    if SIDE_STREAMS & {name for name, _ in manifest["streams"]}:
        yield "side"
    if "tokenizer" in manifest:
        yield "tokenizer"
    for entry in manifest["tensors"]:
        if not all(entry["shape"]):
            yield "empty"
        correction = entry.get("correction", {})
        for fields in (entry, *(correction[k] for k in ("a", "b") if k in correction)):
            yield from FEATURES & fields.keys()
            if fields.get("rows") == "f16":
                yield "f16"
            if fields.get("rows", "f16") != "f16" or "cols" in fields:
                yield "logs"


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
    """The decoder in few bytes, as `readable` takes it, but for this very file alone.

    It knows the file's sha256 and refuses any other: so it has no more to check, and is without what
    this one does not need.
    """
    needs = uses(artifact)
    known = _known(needs, artifact.family, ties, artifact.container.sha256)
    known = usual(needs, known)
    source = bundle(
        {**ENTRIES, "load": "golfpack.export.standalone:load_sealed"},
        known=known,
        annotations=False,
    )
    return pack(minify(quiet(source, keep=ENTRIES, error=ERROR, sealed=True), keep=ENTRIES))


_MAIN = """

if __name__ == "__main__":
    import sys

    for name, weights in load(sys.argv[1]).items():
        print(name, *weights.shape)
"""


def decoding(needs: Uses) -> Known:
    """What a bundle that holds the loader can do without, where it decodes what `needs` says."""
    old, logs = needs.version <= OLD_STEPS, "logs" in needs.features
    return Known(
        values={
            'find_spec("numba") is None': True,
            f"{_FORM}.streams:version > OLD_STEPS": not old,
        },
        only={
            f"{_FORM}.codecs:CODECS": needs.codecs,
            f"{_FORM}.filters:FILTERS": needs.filters,
            f"{_FORM}.codestreams:DECODERS": needs.coders,
            f"{_FORM}.container:VERSIONS": [needs.version],
            f"{_FORM}.streams:STEPS": [not old],
            f"{_FORM}.streams:LOGS": ["vectors"] if logs and not old else [],
            f"{_FORM}.rans.codes:SIDES": [not old],
        },
        instead=_INSTEAD,
    )


def usual(needs: Uses, known: Known) -> Known:
    """What is known, and with it what an artifact without some of FEATURES does without.

    Only for a decoder that never meets another artifact.
    """
    values, instead = dict(known.values), dict(known.instead)
    for feature, told in _WITHOUT.items():
        if feature not in needs.features:
            values |= told
    if not needs.features & {"sorted", "empty"}:
        instead[f"{_FORM}.streams:_restored"] = _NOT_SORTED
    if "logs" in needs.features and "side" not in needs.features:
        instead[f"{_FORM}.streams:_told_steps"] = _LOGS_ALONE
    return replace(known, values=values, instead=instead)


def _known(needs: Uses, family: str, ties: Mapping[str, str], sha256: str = "") -> Known:
    known = decoding(needs)
    told = {
        "golfpack.export.standalone:SHA256": f"SHA256 = {sha256!r}",
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
    logs = {"log steps"} if "logs" in needs.features else set[str]()
    coders = sorted(needs.codecs | needs.filters | (needs.coders - {"bytes"}) | logs)
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
