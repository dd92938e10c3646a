"""How fast a run is and what it costs: timing, growth, memory, beside PyTorch."""
