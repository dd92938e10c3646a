"""From files to gray values and masks."""
