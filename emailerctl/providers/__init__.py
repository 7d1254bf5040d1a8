"""Next hops: one file each, five parts, same order (CONTRIBUTING.md)."""
