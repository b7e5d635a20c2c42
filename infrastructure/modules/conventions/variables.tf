variable "project" {
  description = "First part of every name. Short, because EKS limits a node group prefix to 37 characters."
  type        = string
  default     = "llm"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,13}$", var.project))
    error_message = "project \"${var.project}\" must be 2 to 14 lower-case letters, digits or hyphens and start with a letter."
  }
}

variable "environment" {
  description = "Second part of every name and the value of the environment tag, for example dev or prod."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,11}$", var.environment))
    error_message = "environment \"${var.environment}\" must be 2 to 12 lower-case letters or digits and start with a letter."
  }
}

variable "account_id" {
  description = "AWS account number; makes bucket names unique in the world."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id \"${var.account_id}\" must be the 12 digits of an AWS account."
  }
}
