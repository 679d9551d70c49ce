"""ONNX graphs and engines; `export.runtime` runs them with NumPy and ONNX Runtime only."""
