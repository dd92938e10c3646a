"""Methods: what is trained and how it answers, one file each."""
