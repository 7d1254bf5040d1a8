"""The command line, as its users meet it: a process, on a pipe and on a terminal."""
