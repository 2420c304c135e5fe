"""The network as it is deployed, from a uint8 image to people, and the plain reference it is held against."""
