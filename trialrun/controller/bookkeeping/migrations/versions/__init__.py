"""One module for each revision of the schema; written once, never changed after a release."""
