variable "environment" {
  description = "Key of the environment in infrastructure/node-groups.yaml."
  type        = string

  validation {
    condition     = contains(keys(yamldecode(file("${path.module}/../../node-groups.yaml"))), var.environment)
    error_message = "environment \"${var.environment}\" is not in infrastructure/node-groups.yaml: add its node groups there."
  }
}

variable "zone_letters" {
  description = "Letters of the environment's zones; a pool uses the first ones."
  type        = list(string)
}
