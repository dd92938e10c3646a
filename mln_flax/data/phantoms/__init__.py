"""Drawn mammograms: anatomy, lesions, noise, scanners."""
