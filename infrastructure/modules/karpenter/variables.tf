variable "cluster_name" {
  description = "The cluster Karpenter adds nodes to."
  type        = string
}

variable "instance_types" {
  description = "GPU instance types it may choose."
  type        = list(string)
}

variable "capacity_types" {
  description = "on-demand, spot or both."
  type        = list(string)
  default     = ["on-demand"]

  validation {
    condition     = length(var.capacity_types) > 0 && alltrue([for kind in var.capacity_types : contains(["on-demand", "spot"], kind)])
    error_message = "capacity_types [${join(", ", var.capacity_types)}] must hold on-demand, spot or both."
  }
}

variable "max_gpus" {
  description = "Most GPUs it may run at a time: the limit of the bill."
  type        = number
}

variable "ami_alias_version" {
  description = "Version of the EKS AL2023 image alias, for example v20260101; \"latest\" lets images change under you."
  type        = string
}

variable "disk_gib" {
  description = "Size of the root volume in GiB."
  type        = number
  default     = 150
}

variable "labels" {
  description = "Labels of the GPU nodes (from infrastructure/contract.yaml)."
  type        = map(string)
}

variable "kubernetes_taints" {
  description = "Taints of the GPU nodes, as Kubernetes writes them (from infrastructure/contract.yaml)."
  type = list(object({
    key    = string
    value  = string
    effect = string
  }))
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
