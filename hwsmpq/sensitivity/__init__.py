"""Cheap sensitivity methods: what a precision costs a group, from gradients, curvature or outputs."""
