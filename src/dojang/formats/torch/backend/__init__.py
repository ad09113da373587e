"""What torch.compile hands to a backend, as Graphs that the engine runs."""
