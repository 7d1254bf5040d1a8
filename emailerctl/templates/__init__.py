"""Templates: compiled when they are published, rendered in processes of their own."""
