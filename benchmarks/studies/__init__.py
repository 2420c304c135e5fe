"""Studies behind the figures in docs/experiments.md. They are part of the checkout and not of the wheel."""
