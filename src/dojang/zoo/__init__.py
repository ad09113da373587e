"""Published networks as text files, published tables as CSV: data, not code."""
