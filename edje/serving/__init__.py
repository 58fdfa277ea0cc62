"""A search page and endpoints over an index, for browsers and for others' tools."""
