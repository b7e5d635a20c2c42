variable "repositories" {
  description = "Names of the repositories."
  type        = list(string)
}

variable "keep_images" {
  description = "Images kept per repository."
  type        = number
  default     = 30

  validation {
    condition     = var.keep_images >= 2
    error_message = "keep_images ${var.keep_images} must be at least 2, or a roll-back finds nothing."
  }
}

variable "force_delete" {
  description = "Whether destroy deletes repositories that still hold images."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
