variable "environment" {
  description = "Name of this environment."
  type        = string
  default     = "prod"
}

variable "region" {
  description = "AWS region."
  type        = string
  default     = "us-east-1"
}

variable "availability_zones" {
  description = "Three zones of the region in which the GPU types are sold."
  type        = list(string)
  default     = ["us-east-1a", "us-east-1b", "us-east-1c"]
}

variable "vpc_cidr" {
  description = "IPv4 range of the VPC."
  type        = string
  default     = "10.50.0.0/16"
}

variable "nat_strategy" {
  description = "none, single or per_zone."
  type        = string
  default     = "per_zone"
}

variable "interface_endpoint_zones" {
  description = "Zones in which each interface endpoint is present."
  type        = number
  default     = 3
}

variable "kubernetes_version" {
  description = "Version of the control plane."
  type        = string
  default     = "1.35"
}

variable "node_kubernetes_version" {
  description = "Version of the nodes while an upgrade is half-way; null: the control plane's."
  type        = string
  default     = null
}

variable "api_access_cidrs" {
  description = "Ranges that may reach the API over the internet. Empty: nobody, the endpoint is private."
  type        = list(string)
  default     = []
}

variable "access_entries" {
  description = "Who may use the cluster."
  type = map(object({
    principal_arn = string
    policy        = string
    namespaces    = optional(list(string), [])
  }))
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete the cluster."
  type        = bool
  default     = true
}

variable "force_destroy" {
  description = "Whether destroy deletes buckets and repositories that are not empty."
  type        = bool
  default     = false
}

variable "system_nodes" {
  description = "Nodes for everything without a GPU."
  type = object({
    instance_types = list(string)
    capacity_type  = string
    size           = object({ min = number, desired = number, max = number })
  })
  default = {
    instance_types = ["m7i.xlarge", "m6i.xlarge"]
    capacity_type  = "ON_DEMAND"
    size           = { min = 3, desired = 3, max = 9 }
  }
}

variable "gpu_nodes" {
  description = "GPU nodes; docs/infrastructure.md says how to choose the type."
  type = object({
    instance_types          = list(string)
    capacity_type           = string
    capacity_reservation_id = optional(string)
    size                    = object({ min = number, desired = number, max = number })
  })
  default = {
    instance_types = ["g6.xlarge", "g5.xlarge"]
    capacity_type  = "ON_DEMAND"
    size           = { min = 2, desired = 4, max = 8 }
  }
}

variable "night_schedule" {
  description = "When all nodes rest, by AWS cron; null: never by themselves."
  type = object({
    off_cron = string
    on_cron  = string
    timezone = string
  })
  default = null
}

variable "monthly_limit_usd" {
  description = "What a month may cost, in US dollars."
  type        = number
}

variable "alert_emails" {
  description = "Who is told when the budget runs out."
  type        = list(string)
}
