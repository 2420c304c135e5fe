"""Inference engines behind one protocol; a module of an engine is imported only when that engine is asked for."""
