"""The pages: pure functions from answers of `ailab.queries` to HTML, for a browser without script."""
