"""ONNX graphs: reading, matching and writing them."""
