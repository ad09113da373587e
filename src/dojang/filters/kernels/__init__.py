"""Kernels for pictures: named ones, matrices as people write them, factors and fixed-point forms."""
