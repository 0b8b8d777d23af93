"""The web page of the admin port: what an operator looks at."""
