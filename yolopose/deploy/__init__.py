"""The network as it is deployed, from a uint8 image to people, and the PyTorch reference that it is compared with."""
