"""A small, misbehaving IMAP server in its own process; its mailboxes are folders of files."""
