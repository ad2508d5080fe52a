"""Workshop of `strain`: what is measured at states, along trajectories and of solvers."""
