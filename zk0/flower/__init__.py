"""zk0 as a plain Flower app: `flwr run`, in simulation and on a federation of SuperNodes."""
