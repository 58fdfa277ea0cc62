"""The token store: fingerprint, codecs, sharded writer, memory-mapped reader."""
