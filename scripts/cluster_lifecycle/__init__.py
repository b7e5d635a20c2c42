"""Puts a cluster to rest for the night and wakes it; knows EKS node groups and engine workloads only."""
