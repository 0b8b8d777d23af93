"""What is in the cache, and steering it: for the command line and for the admin port alike."""
