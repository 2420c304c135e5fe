"""``make gpu-proof``: what the documentation may say of a GPU is what this has run on it."""
