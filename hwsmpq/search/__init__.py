"""The search: which precision every group gets, as a multiple-choice knapsack solved exactly."""
