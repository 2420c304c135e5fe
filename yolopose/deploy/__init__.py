"""The network as it is deployed: torch modules from a uint8 image to people, and the plain reference they are held against."""
