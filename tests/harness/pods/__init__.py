"""A cluster of one node without Kubernetes: pods of rendered manifests in namespaces of the kernel.

What is real: the manifests, their commands, environments, volumes, users, probes, stop hooks and network
policies, Services by name and address, EndpointSlices with their RBAC, images built by their own Dockerfiles.
What is not: the scheduler, cgroups, seccomp, DNS (names come from /etc/hosts), and base images (the machine's
own Python and Debian stand in for them).
"""
