"""The public layouts, one file each."""
