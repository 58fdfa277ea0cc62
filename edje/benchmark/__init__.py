"""How fast scoring is, beside the roads that others take; random weights, nothing is read."""
