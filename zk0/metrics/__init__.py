"""What is reckoned from a round's figures, without torch."""
