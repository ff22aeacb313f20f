"""Which files a checkpoint consists of: one, or those of a folder as transformers writes it.

A folder has its weights in one file or in shards with an index, and beside them config.json,
generation_config.json and the tokenizer. The index (or the folder) is the checkpoint; a shard is none.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from golfpack.base.documents import read_json
from golfpack.errors import UsageError

# In the order in which transformers looks for them.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.safetensors|\.bin)")
# What to do about files that do not fit each other.
AGAIN = "bring the whole checkpoint again, or write it again"
# In the order of preference: the first is what the others were converted to.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model")


@dataclass(frozen=True)
class CheckpointFiles:
    """What a checkpoint consists of.

    Attributes:
        main: the file of weights, or the index of its shards.
        weights: the files that hold tensors, in the order of their names.
        tensors: of an index, tensor -> file name; {} for one file.
    """

    main: Path
    weights: tuple[Path, ...]
    tensors: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all weights' files."""
        return sum(path.stat().st_size for path in self.weights)


def checkpoint_files(path: Path) -> CheckpointFiles:
    """The files of a checkpoint that a file, a folder or an index names.

    Raises:
        UsageError: a folder without weights, a shard alone, or an index that is none or whose shards
            are not there. A file that does not exist is not looked at.
    """
    if path.is_dir():
        return checkpoint_files(_main_of(path))
    if path.name.endswith(_INDEX):
        return _indexed(path)
    if match := _SHARD.fullmatch(path.name):
        index = path.with_name(match[1] + match[3] + _INDEX)
        if index.is_file():
            raise UsageError(
                f"{path} is one of {int(match[2])} shards of a checkpoint",
                f"name its folder, {path.parent}, or its index, {index}",
            )
        if int(match[2]) > 1:
            raise UsageError(
                f"{path} is one of {int(match[2])} shards, and their index {index.name} is not there",
                f"bring the whole checkpoint into {path.parent}, then name that folder",
            )
    return CheckpointFiles(path, (path,), {})


def refuse_itself(output: Path, source: Path) -> None:
    """Raise UsageError where a result would replace what it is made of, whatever may be replaced.

    Args:
        output: a file to be written.
        source: a checkpoint, in any of its forms, or an artifact.
    """
    if not (output.exists() and source.exists()):
        return
    files = checkpoint_files(source)
    own = (source, files.main, *files.weights, files.main.with_name("config.json"))
    if any(file.exists() and output.samefile(file) for file in own):
        what = "itself" if output.samefile(source) else f"a part of {source}, which it is made of"
        kind = "the checkpoint " if what == "itself" else ""
        raise UsageError(f"{output} is {kind}{what}", "choose another --output")


def checkpoint_bytes(path: Path) -> int:
    """Bytes of a checkpoint's weights, or of any other file."""
    return checkpoint_files(path).size


def check_shards(files: CheckpointFiles, tensors: Collection[str]) -> None:
    """Raise UsageError unless the shards hold the tensors that their index says, and no others."""
    if not files.tensors:
        return
    if absent := sorted(files.tensors.keys() - set(tensors)):
        raise UsageError(
            f"{files.main} has tensor {absent[0]!r} in {files.tensors[absent[0]]}, where it is not "
            f"(missing tensors: {len(absent)})",
            AGAIN,
        )
    if unknown := sorted(set(tensors) - files.tensors.keys()):
        raise UsageError(
            f"the shards hold tensor {unknown[0]!r}, which {files.main} does not name", AGAIN
        )


def checkpoint_home(path: Path) -> Path:
    """The folder in which a checkpoint's config and tokenizer stand."""
    return path if path.is_dir() else path.parent


def checkpoint_stem(path: Path) -> str:
    """What a checkpoint is called, without its format: "a/b.int8.ptz" -> "b"; of a folder, its name."""
    if path.name.endswith(_INDEX):
        path = path.absolute().parent
    if path.is_dir():
        return path.resolve().name
    return path.name.removesuffix(path.suffix).removesuffix(".int8")


def find_tokenizer(path: Path) -> Path | None:
    """The tokenizer in a checkpoint's folder; None for a single file, or where there is none."""
    if not path.is_dir() and not path.name.endswith(_INDEX):
        return None
    found = (checkpoint_home(path) / name for name in _TOKENIZERS)
    return next((f for f in found if f.is_file()), None)


def _main_of(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    held = f"it holds {', '.join(names[:5])}" if names else "it is empty"
    raise UsageError(
        f"{folder} is a folder without a checkpoint: none of {', '.join(_WEIGHTS)} is in it ({held})",
        "name the file of weights itself",
    )


def _indexed(path: Path) -> CheckpointFiles:
    index = read_json(path, AGAIN)
    tensors = index.get("weight_map")
    if (
        not isinstance(tensors, dict)
        or not tensors
        or not all(isinstance(name, str) and Path(name).name == name for name in tensors.values())
    ):
        raise UsageError(
            f"{path} is no index of a checkpoint: it has no weight_map of tensors to file names",
            AGAIN,
        )
    weights = tuple(path.with_name(name) for name in sorted(set(tensors.values())))
    absent = [w.name for w in weights if not w.is_file()]
    if absent:
        raise UsageError(
            f"{path} names {len(weights)} shards, and {', '.join(absent[:3])} "
            f"{'are' if len(absent) > 1 else 'is'} not there",
            f"bring the whole checkpoint into {path.parent}",
        )
    return CheckpointFiles(path, weights, tensors)
