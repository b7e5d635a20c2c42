"""A one-node cluster without Kubernetes: runs the pods of rendered manifests in kernel namespaces.

Real: the manifests, their commands, environments, volumes, users, probes, stop hooks and network
policies, Services by name and address, EndpointSlices with their RBAC, images built by their own Dockerfiles.
Not real: the scheduler, cgroups, seccomp, DNS (names come from /etc/hosts), and base images (the machine's
own Python and Debian stand in for them).
"""
