"""The tools with which kernels are compiled and run: machine, peaks, IR builder, LLVM, object cache, threads,
transforms."""
