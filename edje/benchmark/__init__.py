"""How fast scoring and the token store are, compared with other methods."""
