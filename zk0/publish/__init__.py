"""A run's policy on the Hugging Face hub, with a card that says where it comes from."""
