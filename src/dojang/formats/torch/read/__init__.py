"""From a PyTorch module to a Graph: its forward is followed with stand-ins for tensors."""
