"""The command line: one file for each noun, and `output`, the only one that prints."""
