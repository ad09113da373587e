"""The tool chain under all kernels: machine, peaks, IR builder, LLVM, cache of object code, threads, transforms."""
