"""Training: assigners, losses, optimizer and the loop. Nothing that is deployed imports this."""
