"""Array handling, special functions, random streams and random bits that the rest of the package shares."""
