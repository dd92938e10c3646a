"""Phantoms as files, for other programs: which ones, in which layout, and a TFDS builder."""
