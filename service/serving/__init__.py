"""uvicorn, with the limits and the shutdown that it lacks."""
