"""Engines at work: NumPy and ONNX Runtime only."""
