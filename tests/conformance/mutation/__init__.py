"""Is the conformance suite able to fail? The reference with one mistake at a time, and who notices."""
