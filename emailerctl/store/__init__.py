"""The message log; the only floor where SQL is spoken."""
