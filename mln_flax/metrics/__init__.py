"""How well masks agree with references, and where a probability becomes a mask."""
