"""From a planned network to calls of kernels: where every value lies, and which call fills it."""
