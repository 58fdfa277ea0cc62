"""Image files as upright eight-bit RGB, by one decoder for the whole product."""
