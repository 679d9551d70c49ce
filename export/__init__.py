"""ONNX graphs and engines; `export.engine` and `export.sampling` are the runtime: NumPy and ONNX Runtime only."""
