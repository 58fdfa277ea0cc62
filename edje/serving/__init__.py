"""A search page and HTTP endpoints over an index, for browsers and other tools."""
