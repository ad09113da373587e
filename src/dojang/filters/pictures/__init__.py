"""Picture files: reading and writing pixels, and keeping the other parts of a file or naming those that are lost."""
