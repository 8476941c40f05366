"""A run's committed rounds as steps of a tracker: TensorBoard, Weights & Biases, trackio, MLflow."""
