variable "cluster_name" {
  description = "The cluster whose node groups rest."
  type        = string
}

variable "node_groups" {
  description = "Node group by name: its ARN and the size it comes back to."
  type = map(object({
    arn     = string
    min     = number
    desired = number
    max     = number
  }))
}

variable "off_cron" {
  description = "When nodes go, as the six fields of AWS cron."
  type        = string
  default     = "0 20 ? * MON-FRI *"
}

variable "on_cron" {
  description = "When nodes come back, as the six fields of AWS cron."
  type        = string
  default     = "0 7 ? * MON-FRI *"
}

variable "timezone" {
  description = "IANA time zone of both."
  type        = string
  default     = "UTC"
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
