"""Engines at work: NumPy and ONNX Runtime only."""

VERSION = "0.1.0"  # of the package of its own, and of the files that it writes
