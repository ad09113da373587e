"""Where every value lies when a network runs, and what kernels need beside the values."""
