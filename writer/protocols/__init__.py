"""How a pool is stored in its contract and written in a list."""
