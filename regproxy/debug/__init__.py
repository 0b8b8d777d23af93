"""The debug views: mitmweb before the cache, and between it and Docker Hub."""
