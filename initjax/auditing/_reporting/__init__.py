"""Shows what an audit found: as data, text, a page in a notebook and a figure."""
