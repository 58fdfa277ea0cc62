"""How fast scoring and the token store are, beside the roads that others take."""
