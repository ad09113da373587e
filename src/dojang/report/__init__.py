"""Text, JSON, SVG, HTML: pure views of results; computes no number."""
