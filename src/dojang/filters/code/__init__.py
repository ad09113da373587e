"""Picture kernels as LLVM IR."""
