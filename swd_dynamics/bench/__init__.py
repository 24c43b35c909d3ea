"""What an optimizer does when it is driven with gradients that were fixed beforehand."""
