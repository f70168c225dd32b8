"""Stages that decide: budgets and measurements into a plan or a front."""
