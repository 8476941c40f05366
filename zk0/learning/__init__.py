"""What torch does: policy, local steps, evaluation, closed loop."""
