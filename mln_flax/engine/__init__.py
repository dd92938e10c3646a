"""What one run does: it is built, trained, evaluated, asked for predictions."""
