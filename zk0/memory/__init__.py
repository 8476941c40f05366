"""What memory is used, what a client can bear, and what is done before it runs out."""
