"""Stages that prove: the engine, its training, its certificate, and the loop until the budgets are kept."""
