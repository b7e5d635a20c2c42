variable "logs_bucket_name" {
  description = "Name of Loki's bucket."
  type        = string
}

variable "traces_bucket_name" {
  description = "Name of Tempo's bucket."
  type        = string
}

variable "logs_days" {
  description = "Days logs are kept; must not be shorter than Loki's own retention."
  type        = number
  default     = 35

  validation {
    condition     = var.logs_days >= 1
    error_message = "logs_days ${var.logs_days} must be at least 1."
  }
}

variable "traces_days" {
  description = "Days traces are kept; must not be shorter than Tempo's own retention."
  type        = number
  default     = 14

  validation {
    condition     = var.traces_days >= 1
    error_message = "traces_days ${var.traces_days} must be at least 1."
  }
}

variable "force_destroy" {
  description = "Whether destroy deletes the telemetry too."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
