"""Creates, destroys, scales down and resumes the clusters of the environments on EKS."""
