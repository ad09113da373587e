"""Kernels of whole numbers of 8 bits: values as unsigned bytes, weights as signed ones, sums in int32, all exact.

A value q of a channel stands for scale · (q − zero). Values lie channels last, each pixel's channels from a multiple of
4 bytes on; bytes behind the last channel may hold anything, and weights of 0 meet them.
"""
