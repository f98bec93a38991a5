"""What all handlers share, most pieces at one of Litestar's extension points."""
