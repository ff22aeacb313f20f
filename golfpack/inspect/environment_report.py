"""The document of `golfpack env`: what a bug report needs to say of the machine."""

from dataclasses import dataclass
from typing import Any

from golfpack.base.documents import SCHEMA_VERSION


@dataclass(frozen=True)
class EnvReport:
    """What `golfpack env` found. Nothing of the user's but the cache folder's place.

    Attributes:
        golfpack: its version.
        python: implementation and version.
        platform: system, release and C library.
        packages: name -> version of what golfpack uses; None where an optional one is missing.
        libraries: versions of the compression libraries behind the codecs.
        cpu: name, architecture, logical cores, and those this process may run on.
        memory_bytes: of the machine; None where it does not say.
        threads: of torch and of the BLAS and OpenMP pools, as this process starts.
        cuda: version torch was built for (None: a CPU build), and name and bytes of each device.
        cache: folder (the home folder as ~), files and bytes in it.
    """

    golfpack: str
    python: str
    platform: str
    packages: dict[str, str | None]
    libraries: dict[str, str]
    cpu: dict[str, Any]
    memory_bytes: int | None
    threads: dict[str, Any]
    cuda: dict[str, Any]
    cache: dict[str, Any]
    schema_version: int = SCHEMA_VERSION
