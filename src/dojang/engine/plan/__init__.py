"""Which algorithm computes each part of a network, and why not another."""
