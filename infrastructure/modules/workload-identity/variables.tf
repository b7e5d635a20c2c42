variable "cluster_name" {
  description = "The cluster; also the prefix of the roles' names."
  type        = string
}

variable "workloads" {
  description = "Workload by name: its service account and what it may do with which bucket (from infrastructure/contract.yaml)."
  type = map(object({
    namespace       = string
    service_account = string
    bucket          = string
    access          = string
  }))

  validation {
    condition     = alltrue([for workload in values(var.workloads) : contains(["read", "read_write"], workload.access)])
    error_message = "workloads: access must be read or read_write, not ${join(", ", [for workload in values(var.workloads) : workload.access])}."
  }
}

variable "bucket_arns" {
  description = "Bucket ARN by purpose: models, logs, traces."
  type        = map(string)
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
