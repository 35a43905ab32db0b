"""Where batches come from: the order of the records, and what loads them."""
