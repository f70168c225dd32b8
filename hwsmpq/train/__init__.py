"""Training of quantized networks: of one plan, and of a supernet that holds every precision of a ladder."""
