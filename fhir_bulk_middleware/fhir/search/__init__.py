"""Search criteria, and what meets them."""
