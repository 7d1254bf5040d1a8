"""A stand-in for ForestMQ: the observed behaviour of release 0.6.5, with faults by choice."""
