"""From answers to files that others can read: DICOM segmentations and structured reports."""
