variable "name" {
  description = "Prefix of names."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "vpc_cidr" {
  description = "Its IPv4 range: the only place the host can talk to."
  type        = string
}

variable "subnet_id" {
  description = "Private subnet to place it in."
  type        = string
}

variable "instance_type" {
  description = "An arm64 type."
  type        = string
  default     = "t4g.nano"
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
}
