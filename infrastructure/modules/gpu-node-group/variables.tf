variable "name" {
  description = "Name of the node group, without the suffix that makes each generation unique."
  type        = string
}

variable "cluster_name" {
  description = "The cluster the nodes join."
  type        = string
}

variable "cluster_service_cidr" {
  description = "IPv4 range of Services."
  type        = string
}

variable "security_group_id" {
  description = "The one security group of the nodes; it carries the cluster's tag."
  type        = string
}

variable "kubernetes_version" {
  description = "Kubernetes version of the nodes; at most the control plane's."
  type        = string
}

variable "subnet_id" {
  description = "Private subnet of the nodes. One, so that a volume's zone always has its nodes."
  type        = string
}

variable "instance_types" {
  description = "Instance types, best first. With spot capacity, more types mean fewer interruptions."
  type        = list(string)

  validation {
    condition     = length(var.instance_types) > 0
    error_message = "instance_types is empty."
  }

  validation {
    # Compute capability 8.0 or later (AWQ's fast kernels and bfloat16 need it), a whole NVIDIA GPU, an x86_64 host:
    # g5 A10G 8.6, g6 and gr6 L4 8.9, g6e L40S 8.9, g7e RTX PRO 6000 12.0, p4d and p4de A100 8.0, p5, p5e and p5en
    # H100 and H200 9.0, p6-b200 and p6-b300 10.0 and 10.3. Source: developer.nvidia.com/cuda-gpus, AWS's instance pages.
    condition     = alltrue([for type in var.instance_types : can(regex("^(g5|g6|gr6|g6e|g7e|p4d|p4de|p5|p5e|p5en|p6-b200|p6-b300)\\.", type))])
    error_message = "instance_types [${join(", ", var.instance_types)}]: each must have NVIDIA GPUs of compute capability 8.0 or later: g5, g6, gr6, g6e, g7e, p4d, p4de, p5, p5e, p5en, p6-b200 or p6-b300 (g4dn has 7.5, p3 7.0)."
  }
}

variable "capacity_type" {
  description = "ON_DEMAND or SPOT."
  type        = string
  default     = "ON_DEMAND"

  validation {
    condition     = contains(["ON_DEMAND", "SPOT"], var.capacity_type)
    error_message = "capacity_type \"${var.capacity_type}\" must be ON_DEMAND or SPOT."
  }
}

variable "size" {
  description = "Number of nodes: least, at creation, most. Afterwards autoscalers and night-off own the desired count."
  type = object({
    min     = number
    desired = number
    max     = number
  })

  validation {
    condition     = var.size.min <= var.size.desired && var.size.desired <= var.size.max && var.size.max >= 1
    error_message = "size min ${var.size.min}, desired ${var.size.desired}, max ${var.size.max}: must rise, and max be at least 1."
  }
}

variable "labels" {
  description = "Labels of the nodes (from infrastructure/contract.yaml)."
  type        = map(string)
}

variable "taints" {
  description = "Taints of the nodes (from infrastructure/contract.yaml)."
  type = map(object({
    key    = string
    value  = string
    effect = string
  }))

  validation {
    condition     = contains([for taint in values(var.taints) : taint.key], "nvidia.com/gpu")
    error_message = "taints must include nvidia.com/gpu, or pods that need no GPU fill the GPU nodes."
  }
}

variable "disk_gib" {
  description = "Size of the root volume in GiB; images and weights are cached there."
  type        = number
  default     = 150
}

variable "disk_throughput_mib" {
  description = "Throughput of the root volume in MiB/s (gp3: 125 to 1000)."
  type        = number
  default     = 500

  validation {
    condition     = var.disk_throughput_mib >= 125 && var.disk_throughput_mib <= 1000
    error_message = "disk_throughput_mib ${var.disk_throughput_mib} must be between 125 and 1000."
  }
}

variable "max_pods" {
  description = "Pods per node."
  type        = number
  default     = 110
}

variable "ami_release_version" {
  description = "Release of the EKS image, for example from the AMI changelog. Null: EKS's newest at creation, kept until set."
  type        = string
  default     = null
}

variable "capacity_reservation_id" {
  description = "Capacity reservation to launch into; null for none."
  type        = string
  default     = null
}

variable "repair_nodes" {
  description = "Whether EKS replaces nodes on which the node monitoring agent reports a hardware fault."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
