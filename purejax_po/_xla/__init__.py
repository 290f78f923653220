"""What computes the same as plain JAX, faster on some device: see README.md and `switch`."""
