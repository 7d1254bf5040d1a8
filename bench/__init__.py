"""What the product costs, beside what a bare program costs: ratios measured in one run."""
