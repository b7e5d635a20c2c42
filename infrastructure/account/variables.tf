variable "region" {
  description = "AWS region whose EBS encryption default is switched on."
  type        = string
}

variable "service_linked_roles" {
  description = "AWS services, such as spot.amazonaws.com, whose service-linked role does not exist yet."
  type        = list(string)
  default     = []
}

variable "activate_cost_tag" {
  description = "Whether to activate the environment tag for cost allocation. Possible a day after the first environment exists."
  type        = bool
  default     = false
}
