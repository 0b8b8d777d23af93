"""The web page of the admin port: views for people, made on the server."""
