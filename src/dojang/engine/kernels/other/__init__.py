"""Kernels of the operators that are not convolutions: pooling, norms, softmax, resizing, copies, matrix products."""
