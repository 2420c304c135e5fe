"""``make gpu-proof``: tests, parity, placement and time on a real GPU. Claims about GPUs need a report of this."""
