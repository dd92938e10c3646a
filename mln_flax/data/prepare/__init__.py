"""From a collection of files to stored tiles, split by patient, naming nobody."""
