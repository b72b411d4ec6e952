"""The HTTP server: the only folder that imports Litestar."""
