"""Pure decisions: what a request gets, which answers are shared, which hosts may be reached."""
