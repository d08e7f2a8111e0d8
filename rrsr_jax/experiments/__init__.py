"""Many runs, or finished ones: lists of runs, comparisons, figures, costs, benchmarks."""
