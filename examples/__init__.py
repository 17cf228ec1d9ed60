"""Examples; each is a package with a README or a docstring of its own."""
