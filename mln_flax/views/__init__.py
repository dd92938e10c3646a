"""What is done to images before the network sees them: intensity and geometry."""
