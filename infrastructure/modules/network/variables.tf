variable "name" {
  description = "Name of the VPC and prefix of what is in it."
  type        = string
}

variable "vpc_cidr" {
  description = "IPv4 range of the VPC, /16 to /20."
  type        = string
}

variable "availability_zones" {
  description = "The three zones to use. GPU types are not sold in every zone: see docs/infrastructure.md."
  type        = list(string)

  validation {
    condition     = length(distinct(var.availability_zones)) == 3
    error_message = "availability_zones [${join(", ", var.availability_zones)}] must name three different zones."
  }
}

variable "nat_strategy" {
  description = "none: no way out but the endpoints. single: one NAT gateway (cheap, one zone's loss cuts all). per_zone: one in each."
  type        = string

  validation {
    condition     = contains(["none", "single", "per_zone"], var.nat_strategy)
    error_message = "nat_strategy \"${var.nat_strategy}\" must be none, single or per_zone."
  }
}

variable "interface_endpoints" {
  description = "AWS services reached inside the VPC instead of over NAT. Each costs by the hour and zone."
  type        = list(string)
  default     = ["ecr.api", "ecr.dkr", "sts", "ec2", "eks", "eks-auth", "logs", "ssm", "ssmmessages", "ec2messages"]
}

variable "interface_endpoint_zones" {
  description = "In how many zones each interface endpoint has an interface (1 saves money, 3 survives a zone)."
  type        = number
  default     = 3

  validation {
    condition     = var.interface_endpoint_zones >= 1 && var.interface_endpoint_zones <= 3
    error_message = "interface_endpoint_zones ${var.interface_endpoint_zones} must be 1, 2 or 3."
  }
}

variable "flow_log_retention_days" {
  description = "Days that refused connections are kept in CloudWatch; 0 switches flow logs off."
  type        = number
  default     = 14

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365], var.flow_log_retention_days)
    error_message = "flow_log_retention_days ${var.flow_log_retention_days} is not a retention that CloudWatch knows."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
