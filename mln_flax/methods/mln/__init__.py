"""MLN-net: branches, their bank, the choice between them, and what only it shows."""
