"""What a machine must have for zk0, looked at before anything is asked of it."""
