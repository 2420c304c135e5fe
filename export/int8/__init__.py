"""float32 artifact in, int8 artifact out: measured ranges, explicit Q/DQ for one engine, layers that hurt kept higher.

layers (what a graph is made of) -> calibration (what its tensors hold) -> ranges, weights (how they become integers)
-> plan (all of it together) -> qdq (the graph that computes so); trials, cost and search choose the layers to keep."""
