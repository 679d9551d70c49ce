"""What a GPU can do at most, measured, and what a step asks of it at least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gpu_steps import FP8, fits_fp8, positions_of
from torch import nn

from compress.models.transformer.model import TokenTransformer

SIDE = 8192  # of the square products
COPY = 2**30  # numbers of 4 bytes that are copied
BYTES = {"bf16": 2, "fp8": 1}  # of a weight


@dataclass(frozen=True)
class Limits:
    """Measured rates; `copy_gb_per_s` is a copy within the device, bytes read plus bytes written."""

    copy_gb_per_s: float
    bf16_tflops: float
    fp8_tflops: float | None

    def rate(self, kind: str) -> float:
        """Operations a second of products in bf16 or FP8."""
        return 1e12 * (self.fp8_tflops or self.bf16_tflops if kind == "fp8" else self.bf16_tflops)


@dataclass(frozen=True)
class Cost:
    """What a step must do at least: bytes through the memory, operations of its products and of its attention."""

    bytes: float
    product_flops: float
    attention_flops: float
    kind: str

    def floor_ms(self, limits: Limits) -> float:
        """No version is much faster than the larger of both times."""
        moving = self.bytes / (1e9 * limits.copy_gb_per_s)
        computing = self.product_flops / limits.rate(self.kind) + self.attention_flops / limits.rate("bf16")
        return 1e3 * max(moving, computing)


def measure(device: torch.device, small: bool) -> Limits:
    """The limits of this device, on random numbers; `small` for trying the script out."""
    side, count = (256, 2**20) if small else (SIDE, COPY)
    copying = copy_s(count, device)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    bf16 = median_s(lambda: a @ b, device)
    return Limits(8e-9 * count / copying, 2e-12 * side**3 / bf16, fp8_tflops(a, b, device))


def copy_s(count: int, device: torch.device) -> float:
    """Seconds of copying so many numbers."""
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    return median_s(lambda: target.copy_(source), device)


def fp8_tflops(a: torch.Tensor, b: torch.Tensor, device: torch.device) -> float | None:
    """Rate of the row-wise FP8 product; None where it does not run."""
    ones = torch.ones(len(a), 1, device=device)
    left, right = a.to(FP8), b.to(FP8).t()
    try:
        seconds = median_s(
            lambda: torch._scaled_mm(left, right, ones, ones.t(), out_dtype=torch.bfloat16, use_fast_accum=True), device
        )
    except RuntimeError as error:
        print(f"FP8 products by rows do not run: {str(error).splitlines()[0][:200]}", flush=True)
        return None
    return 2e-12 * len(a) ** 3 / seconds


def median_s(run: Callable[[], object], device: torch.device, rounds: int = 9, each: int = 5) -> float:
    """Median seconds of a call over rounds, behind some that warm up."""
    for _ in range(3):
        run()
    return statistics.median(elapsed_ms(run, each, device) / 1e3 for _ in range(rounds))


def elapsed_ms(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Milliseconds of one of some calls in a row, on the device's clock where it has one."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            run()
        return 1e3 * (time.perf_counter() - start) / times
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(times):
        run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / times


def cost(model: TokenTransformer, kind: str, rows: int, before: int, count: int, alone: bool = False) -> Cost:
    """Of one step of `count` positions behind `before` cached ones, of the model as it was before it was rewritten.

    Weights and cache are read once, logits and a causal model's new keys and values written once. `alone`: of its
    linear layers and their weights, nothing else.
    """
    config = model.config
    linears = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    narrow = sum(each.weight.numel() for each in linears.values() if fits_fp8(each))
    products = sum(rows * positions_of(name, count) * each.weight.numel() for name, each in linears.items())
    if alone:
        wide = sum(each.weight.numel() for each in linears.values()) - narrow
        return Cost(BYTES[kind] * narrow + 2.0 * wide, 2.0 * products, 0.0, kind)
    gathered = ("embedding.", "position.", "moment.", "scales.")  # of tables a step reads a few rows
    every = sum(each.numel() for name, each in model.named_parameters() if not name.startswith(gathered))
    head = config.predicted * config.width if config.tied_head else 0
    logits = rows * count * config.predicted
    cached = 0 if config.drawing.masks else before + config.drawing.sequential
    cache = 2 * rows * cached * config.head_width * sum(each.kv_heads for each in config.layers)
    attended = rows * count * (before + count) * config.head_width * sum(each.heads for each in config.layers)
    return Cost(
        bytes=BYTES[kind] * narrow + 2.0 * (every - narrow + head + logits + cache),
        product_flops=2.0 * (products + rows * count * head),
        attention_flops=4.0 * attended,
        kind=kind,
    )
