"""Picture files: pixels in and out, and what is not pixels kept or named."""
