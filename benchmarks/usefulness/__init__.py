"""Whether tuning by hypergradients helps: tasks, rivals at equal compute, and the comparison."""
