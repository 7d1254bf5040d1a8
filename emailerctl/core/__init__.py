"""Verbs: what is done with messages.  Knows the shape of a backend, never a backend; no I/O."""
