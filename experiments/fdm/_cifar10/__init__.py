"""Workshop of `cifar10`: likelihoods, the ablation of the divergence, costs, tables, pictures."""
