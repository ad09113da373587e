"""Networks that run in a browser: one WebAssembly module per network, weights in few bytes, a table that says how."""
