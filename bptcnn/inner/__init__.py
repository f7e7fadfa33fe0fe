"""The inner layer: a network's training step as a task graph that work-stealing threads run.

Imports networks and kernels. Never knows nodes, files or other processes.
"""
