variable "vpc_cidr" {
  description = "IPv4 range of the VPC, /16 to /20."
  type        = string

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && can(regex("/(1[6-9]|20)$", var.vpc_cidr))
    error_message = "vpc_cidr \"${var.vpc_cidr}\" must be an IPv4 range between /16 and /20."
  }

  validation {
    condition     = try(cidrhost(var.vpc_cidr, 0) == split("/", var.vpc_cidr)[0], false)
    error_message = "vpc_cidr \"${var.vpc_cidr}\" has bits set after its prefix length."
  }
}
