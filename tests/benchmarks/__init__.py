"""The benchmark suite: `python -m tests.benchmarks`, ratios against baselines that are taken in the same run."""
