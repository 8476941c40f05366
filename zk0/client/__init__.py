"""What a worker does with a task, a function for each kind."""
