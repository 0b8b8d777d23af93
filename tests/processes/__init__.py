"""The process tree: workers, supervisor, janitor; drain, reload, kill."""
