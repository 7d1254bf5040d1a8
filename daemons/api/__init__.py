"""The API daemon: it authenticates, validates, commits, answers.  It never talks to a mail server."""
