"""Studies behind the figures in docs/experiments.md. They belong to the checkout and are not in the wheel."""
