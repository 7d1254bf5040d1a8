"""The API daemon: authenticates, validates, commits, answers; never talks to a mail server."""
