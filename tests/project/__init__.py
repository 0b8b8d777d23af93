"""The project itself: layers, documents, names."""
