"""Where a measurement was made: the machine and the libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from compress.core.settings import setting

# Vector instructions that decide which kernels run; a number from a machine with VNNI says little of one without.
FLAGS = ("avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "tensorrt")
LIBRARIES = ("torch", "onnx", "onnxscript", *RUNTIMES, "numpy", "image-token-compress")


@dataclass(frozen=True)
class Environment:
    """A machine and its software."""

    cpu: str = setting(doc="processor model")
    flags: tuple[str, ...] = setting(doc="vector instructions it has, among those that decide which kernels run")
    cores: int = setting(doc="cores this process may use", low=1)
    memory_mib: int = setting(doc="physical memory, MiB (0 where unknown)", low=0)
    os: str = setting(doc="operating system")
    python: str = setting(doc="Python version")
    libraries: dict[str, str] = setting(doc="versions of the installed libraries that matter")


def environment() -> Environment:
    """This machine; imports none of the libraries."""
    model, present = processor()
    return Environment(
        cpu=model,
        flags=tuple(flag for flag in FLAGS if flag in present),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=memory_mib(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        libraries=libraries(),
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """The processor's model name and feature flags (no flags outside Linux)."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = values.get("flags", "") or values.get("Features", "")
    return values.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def memory_mib() -> int:
    """Physical memory in MiB."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (AttributeError, ValueError, OSError):
        return 0


def libraries() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
