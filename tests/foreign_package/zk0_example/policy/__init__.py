"""policy.plugin = "zk0_example.policy": it registers the type `example_mlp`; zk0 imports its modules, too."""
