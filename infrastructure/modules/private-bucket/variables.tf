variable "name" {
  description = "Name of the bucket, unique in the world."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "name \"${var.name}\" is not a bucket name."
  }
}

variable "noncurrent_days" {
  description = "Days a replaced or deleted object can still be had back."
  type        = number
  default     = 30
}

variable "expire_days" {
  description = "Days after which objects are deleted; null keeps them."
  type        = number
  default     = null
}

variable "force_destroy" {
  description = "Whether destroy deletes the objects too. Only for environments that hold nothing of value."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
