"""A run's policy on its way out: to the Hugging Face hub with a card, and onto an arm."""
