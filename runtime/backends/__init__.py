"""Inference backends behind one protocol (base.py). The module of a backend is imported only when it is used."""
