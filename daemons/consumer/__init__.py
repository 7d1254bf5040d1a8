"""The consumer daemon: takes what is due, hands it to the next hop, records every step."""
