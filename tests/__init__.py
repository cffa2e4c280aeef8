"""A package, although nothing imports it as one: some SDK brings a `tests` of its own along."""
