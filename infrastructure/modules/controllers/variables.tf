variable "cluster_name" {
  description = "Name of the cluster; also the prefix of every role's and policy's name."
  type        = string
}

variable "accounts" {
  description = "Namespace and service account by controller (from infrastructure/contract.yaml)."
  type = map(object({
    namespace       = string
    service_account = string
  }))
}

variable "node_autoscaler" {
  description = "Whether Cluster Autoscaler gets rights to resize this cluster's node groups."
  type        = bool
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
