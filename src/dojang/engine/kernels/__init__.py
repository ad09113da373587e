"""Kernels as LLVM IR: what an algorithm is asked to do, and the code that does it."""
