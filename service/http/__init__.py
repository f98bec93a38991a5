"""What all handlers share, each piece at one of Litestar's extension points."""
