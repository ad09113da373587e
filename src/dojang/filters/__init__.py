"""Convolution on pictures."""
