"""Count, run and slim convolutional networks."""

__version__ = "0.1.0"
