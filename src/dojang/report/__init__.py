"""Results as text, JSON, SVG and HTML. This package displays numbers, and computes none."""
