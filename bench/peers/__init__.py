"""The caching servers that are measured beside ours; `table` names them all."""
