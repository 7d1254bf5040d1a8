"""Nouns of the field.  Standard library, email-validator, idna; no I/O."""
