"""What this machine can run, and what it would take to run the rest."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from compress.measure.speed.environment import Environment, environment


@dataclass(frozen=True)
class Capability:
    """One thing a user may want to run, whether it works here, and what it is or what is missing."""

    name: str
    works: bool
    detail: str


@dataclass(frozen=True)
class Health:
    """The machine and the checks."""

    machine: Environment
    checks: tuple[Capability, ...]


def examine() -> Health:
    """Look at the machine; imports each runtime that is installed."""
    machine = environment()
    return Health(machine, (cpu_int8(machine), onnxruntime(), cuda(), tensorrt_rtx(), tensorrt(), optimum()))


def cpu_int8(machine: Environment) -> Capability:
    """Whether the CPU has instructions for 8-bit dot products, and what its products do without."""
    from export.runtime.processor import products_saturate

    name = "int8 dot products on the CPU"
    found = [flag for flag in machine.flags if flag in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")]
    if products_saturate():
        return Capability(
            name,
            False,
            "no VNNI: int8 gains less here, and products of full-range weights saturate; engines are right all the "
            "same: reduce_range: auto limits their weights, and those made with cpu: vnni run in slower exact kernels",
        )
    if found:
        return Capability(name, True, ", ".join(found))
    return Capability(
        name, False, "no VNNI, AMX or dot-product extension: int8 gains less here; products do not saturate"
    )


def onnxruntime() -> Capability:
    """ONNX Runtime and its execution providers."""
    from export.runtime.processor import execution_providers, runtime_version

    return Capability("ONNX Runtime", True, f"{runtime_version()}: {', '.join(execution_providers())}")


def cuda() -> Capability:
    """A CUDA device, by PyTorch's own word."""
    import torch

    if torch.cuda.is_available():
        return Capability("CUDA", True, torch.cuda.get_device_name())
    reason = "no device is visible" if torch.version.cuda else f"PyTorch {torch.__version__} is a CPU build"
    return Capability("CUDA", False, reason)


def tensorrt_rtx() -> Capability:
    """The builder of TensorRT for RTX, which needs no GPU."""
    from export.building.capabilities import CAPABILITIES
    from export.building.process import installed, missing

    version = installed()
    builds = f"{version}: builds plans for compute capability {', '.join(CAPABILITIES)} on this machine"
    return Capability("TensorRT for RTX, builder", bool(version), builds if version else missing())


def tensorrt() -> Capability:
    """TensorRT's builder."""
    from export.runtime.tensorrt import TensorRTMissingError, require

    try:
        return Capability("TensorRT", True, require().__version__)
    except TensorRTMissingError as error:
        return Capability("TensorRT", False, str(error))


def optimum() -> Capability:
    """The exporter for Hugging Face folders."""
    if importlib.util.find_spec("optimum") is None:
        from compress.models.families.huggingface import INSTALL

        return Capability("optimum", False, f"not installed; {INSTALL}")
    return Capability("optimum", True, "installed")
