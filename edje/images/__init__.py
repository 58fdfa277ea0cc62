"""Picture files as upright eight-bit RGB, the same for all of the product: one decoder."""
