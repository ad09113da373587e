"""Every operator in plain NumPy: the oracle that all kernels are held against, and what is left where none applies."""
