"""ONNX and TFLite artifacts of a trained student, and the proof that they are the same."""
