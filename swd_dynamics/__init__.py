"""The continuous-time dynamics of weight decay: derived, simulated, and checked against real optimizers."""
