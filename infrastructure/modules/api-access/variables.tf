variable "api_access_cidrs" {
  description = "IPv4 ranges that may reach the API endpoint over the internet. Empty: the endpoint is private."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_access_cidrs : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "api_access_cidrs has something that is not an IPv4 range: ${join(", ", var.api_access_cidrs)}."
  }

  # 0.0.0.0/0 is the plain mistake; 0.0.0.0/1 and 128.0.0.0/1 together are the same one.
  validation {
    condition = alltrue([
      for cidr in var.api_access_cidrs : try(tonumber(split("/", cidr)[1]) >= 16, false)
    ])
    error_message = "api_access_cidrs ${join(", ", var.api_access_cidrs)} opens the API endpoint to the world: every range must be a /16 or narrower."
  }
}
