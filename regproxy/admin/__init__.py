"""The admin port: its pages, its API, and who may use them."""
