"""Records, tables, plots, pages: what is shown of a run, made of its files alone."""
