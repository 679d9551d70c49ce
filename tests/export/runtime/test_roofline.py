"""The probes give rates that a machine can have, and shares that are worked by hand."""

from __future__ import annotations

from export.runtime.roofline import Roofline, bandwidth, products


def test_rates_are_those_of_a_machine() -> None:
    assert 1e8 < bandwidth(1) < 1e12
    assert 1e8 < products(1, "fp32") < 1e13
    assert 1e8 < products(1, "int8") < 1e14


def test_shares_are_of_the_rate_of_their_kind() -> None:
    limits = Roofline(2, read_gb_per_s=20.0, fp32_gflops=100.0, int8_gflops=400.0)
    assert limits.share_of_bandwidth(10e9, 1.0) == 0.5
    assert limits.share_of_products(50e9, 1.0, "fp32") == 0.5
    assert limits.share_of_products(50e9, 0.5, "int8") == 0.25
