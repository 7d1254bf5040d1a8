"""The two long-running programs, and the sandbox inbox."""
