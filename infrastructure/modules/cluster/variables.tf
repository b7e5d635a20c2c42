variable "name" {
  description = "Name of the cluster."
  type        = string
}

variable "kubernetes_version" {
  description = "Kubernetes version as <major>.<minor>. Go up one minor at a time: see docs/infrastructure.md."
  type        = string

  validation {
    condition     = can(regex("^1\\.(3[3-9]|[4-9][0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version \"${var.kubernetes_version}\" must be 1.33 or later, written as 1.NN."
  }
}

variable "addon_versions" {
  description = "Version by add-on name, instead of the one in infrastructure/addon-versions.yaml."
  type        = map(string)
  default     = {}

  validation {
    condition = length(setsubtract(keys(var.addon_versions), [
      "vpc-cni", "kube-proxy", "eks-pod-identity-agent", "coredns", "metrics-server", "aws-ebs-csi-driver",
      "eks-node-monitoring-agent",
    ])) == 0
    error_message = "addon_versions names an add-on this module does not install: ${join(", ", keys(var.addon_versions))}."
  }

  validation {
    condition = length(setsubtract([
      "vpc-cni", "kube-proxy", "eks-pod-identity-agent", "coredns", "metrics-server", "aws-ebs-csi-driver",
      "eks-node-monitoring-agent",
    ], concat(keys(local.pinned_addons), keys(var.addon_versions)))) == 0
    error_message = "Kubernetes ${var.kubernetes_version}: add-ons have no version. Add them to infrastructure/addon-versions.yaml (docs/infrastructure.md, \"Add-on versions\")."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "private_subnet_ids" {
  description = "Subnets of the nodes."
  type        = list(string)
}

variable "intra_subnet_ids" {
  description = "Subnets of the control plane's interfaces."
  type        = list(string)
}

variable "api_access_cidrs" {
  description = "IPv4 ranges that may reach the API endpoint over the internet. Empty: the endpoint is private."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.api_access_cidrs, "0.0.0.0/0")
    error_message = "api_access_cidrs holds 0.0.0.0/0: the API endpoint must not be open to the world."
  }
}

variable "api_client_security_group_ids" {
  description = "Security groups inside the VPC that may reach the private endpoint, by name."
  type        = map(string)
  default     = {}
}

variable "access_entries" {
  description = "Who may use the cluster: IAM principal, EKS access policy, and namespaces (none: the whole cluster). Empty: only the principal that applies."
  type = map(object({
    principal_arn = string
    policy        = string
    namespaces    = optional(list(string), [])
  }))

  validation {
    condition = alltrue([for entry in values(var.access_entries) : contains([
      "AmazonEKSClusterAdminPolicy", "AmazonEKSAdminPolicy", "AmazonEKSEditPolicy", "AmazonEKSViewPolicy",
    ], entry.policy)])
    error_message = "access_entries: unknown policy in ${join(", ", [for entry in values(var.access_entries) : entry.policy])}."
  }
}

variable "log_retention_days" {
  description = "Days the control plane's logs are kept."
  type        = number
  default     = 90
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the cluster. Set false and apply before destroying: docs/infrastructure.md."
  type        = bool
}

variable "volume_tags" {
  description = "Tags of every EBS volume that a claim creates."
  type        = map(string)
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
