"""A misbehaving SMTP server in its own process, with a ground-truth journal: the oracle."""
