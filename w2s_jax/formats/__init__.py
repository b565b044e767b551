"""How rows are read from each kind of file; `w2s_jax.io` chooses among them."""
