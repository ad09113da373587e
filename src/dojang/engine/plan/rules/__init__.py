"""How each operator becomes steps of kernels: one rule per operator, in one table (`table.py`)."""
