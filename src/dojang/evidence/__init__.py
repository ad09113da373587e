"""What is known about a trained network: intervals, equal channels, activations, and the Finding that states it."""
