"""Speed and size, measured on demand: `make bench`. Nothing here is a test."""
