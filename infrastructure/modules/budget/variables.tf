variable "name" {
  description = "Prefix of the budget's name."
  type        = string
}

variable "environment" {
  description = "The environment whose costs count."
  type        = string
}

variable "environment_tag" {
  description = "Key of the tag that names the environment."
  type        = string
}

variable "monthly_limit_usd" {
  description = "What a month may cost, in US dollars."
  type        = number

  validation {
    condition     = var.monthly_limit_usd > 0
    error_message = "monthly_limit_usd ${var.monthly_limit_usd} must be more than 0."
  }
}

variable "alert_emails" {
  description = "Addresses that get the alerts."
  type        = list(string)

  validation {
    condition     = length(var.alert_emails) > 0 && alltrue([for email in var.alert_emails : can(regex("@", email))])
    error_message = "alert_emails [${join(", ", var.alert_emails)}] must hold at least one address."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
