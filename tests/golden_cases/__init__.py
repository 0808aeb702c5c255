"""One module per part of the model: how a golden case maps to this project's classes. `tests/golden.py` runs them."""
