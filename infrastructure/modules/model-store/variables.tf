variable "bucket_name" {
  description = "Name of the bucket of model weights."
  type        = string
}

variable "force_destroy" {
  description = "Whether destroy deletes the weights too."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
