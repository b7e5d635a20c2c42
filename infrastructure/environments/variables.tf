variable "environment" {
  description = "Name of the environment: part of every resource's name, and its key in infrastructure/node-groups.yaml."
  type        = string
}

variable "region" {
  description = "AWS region."
  type        = string
}

variable "zone_letters" {
  description = "Letters of the three zones to use. GPU types are not sold in every zone: docs/infrastructure.md."
  type        = list(string)
}

variable "vpc_cidr" {
  description = "IPv4 range of the VPC."
  type        = string
}

variable "nat_strategy" {
  description = "NAT gateways: none, single (one zone) or per_zone."
  type        = string
}

variable "interface_endpoint_zones" {
  description = "Number of zones in which each interface endpoint has an address."
  type        = number
}

variable "kubernetes_version" {
  description = "Kubernetes version of the control plane."
  type        = string
}

variable "node_kubernetes_version" {
  description = "Kubernetes version of the nodes during an upgrade; null: the control plane's."
  type        = string
  default     = null
}

variable "ami_release_versions" {
  description = "Release of the EKS image by pool (system, gpu). A pool left out keeps the image it was created with."
  type        = object({ system = optional(string), gpu = optional(string) })
  default     = {}
}

variable "addon_versions" {
  description = "Version by EKS add-on name, instead of the one in infrastructure/addon-versions.yaml."
  type        = map(string)
  default     = {}
}

variable "api_access_cidrs" {
  description = "IPv4 ranges that may reach the API over the internet. Empty: none, the endpoint is private."
  type        = list(string)
  default     = []
}

variable "access_entries" {
  description = "Who may use the cluster: IAM principal, EKS access policy, and namespaces (none: the whole cluster). Empty: only the principal that applies."
  type = map(object({
    principal_arn = string
    policy        = string
    namespaces    = optional(list(string), [])
  }))
  default = {}
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the cluster. To delete it, set false and apply first: docs/infrastructure.md."
  type        = bool
}

variable "force_destroy" {
  description = "Whether destroy deletes buckets and repositories that are not empty."
  type        = bool
}

variable "node_autoscaler" {
  description = "Whether Cluster Autoscaler gets its rights and chart values: docs/infrastructure.md shows how to install it."
  type        = bool
}

variable "capacity_reservation_id" {
  description = "Capacity reservation to start GPU nodes in; null: none."
  type        = string
  default     = null
}

variable "night_schedule" {
  description = "When all nodes stop and start, as AWS cron; null: no schedule."
  type = object({
    off_cron = string
    on_cron  = string
    timezone = string
  })
  default = null
}

variable "monthly_limit_usd" {
  description = "Monthly budget in US dollars."
  type        = number
}

variable "alert_emails" {
  description = "Addresses that AWS Budgets mails."
  type        = list(string)
}
