"""The arithmetic of convolution: shapes, parameters, MACs, memory, receptive fields. Standard library only."""
