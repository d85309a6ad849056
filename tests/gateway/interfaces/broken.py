"""A graph that cannot be loaded."""

import not_installed_anywhere  # type: ignore[import-not-found] # noqa: F401 - that is what is wrong with it
