"""ONNX graphs and engines; `export.engine` and `export.sampling` are the runtime and need NumPy and ONNX Runtime only."""
