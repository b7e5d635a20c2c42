variable "cluster_name" {
  description = "Cluster whose node groups stop and start."
  type        = string
}

variable "node_groups" {
  description = "Node groups by a key known at plan time: name, ARN and the size to come back to."
  type = map(object({
    name    = string
    arn     = string
    min     = number
    desired = number
    max     = number
  }))
}

variable "off_cron" {
  description = "When nodes stop, as the six fields of AWS cron."
  type        = string
  default     = "0 20 ? * MON-FRI *"
}

variable "on_cron" {
  description = "When nodes start again, as the six fields of AWS cron."
  type        = string
  default     = "0 7 ? * MON-FRI *"
}

variable "timezone" {
  description = "IANA time zone of both schedules."
  type        = string
  default     = "UTC"
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
