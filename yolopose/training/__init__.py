"""Training: label assignment, losses, optimizer, the loop and yolopose-train. Deployed code imports none of it."""
