"""From a Graph to a PyTorch module, and a module made narrower in place of its layers."""
