"""How a consumer learns that a message is due."""
