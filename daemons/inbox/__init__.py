"""The sandbox inbox: an SMTP server that takes every mail and keeps it as a file."""
